//! Which addresses NodePorts answer on: `nodePortAddresses` and its keywords, against the addresses the node has. Pure;
//! finding the addresses out is the caller's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use service_model::{IpFamily, Node, NodePortAddresses};

/// What `nodePortAddresses` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Every address of the node, except loopback.
    pub all: bool,
    /// The addresses by which the Node object knows the node.
    pub primary: bool,
    /// 127.0.0.1. IPv6 has no such thing: the kernel never lets ::1 leave the loopback device.
    pub localhost: bool,
    /// Addresses of the node within these.
    pub cidrs: Vec<IpNet>,
    /// No loopback address answers, whatever else is asked for.
    pub loopback_shut: bool,
}

/// The addresses a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// Of all its interfaces, loopback's too.
    pub all: BTreeSet<IpAddr>,
    /// At most one of each family.
    pub primary: Vec<IpAddr>,
}

impl Reach {
    /// Understands a checked list; anything that is none of it is left out. An empty list says `all`.
    pub fn of(list: &[String]) -> Reach {
        let mut reach = Reach { all: list.is_empty(), ..Reach::default() };
        for entry in list {
            match entry.as_str() {
                "primary" => reach.primary = true,
                "localhost" => reach.localhost = true,
                "all" => reach.all = true,
                cidr => reach.cidrs.extend(cidr.parse::<IpNet>().ok()),
            }
        }
        reach
    }

    /// Whether 127.0.0.1 is asked for, by its keyword or by a network such as `127.0.0.0/8`, and may answer.
    pub fn has_localhost(&self) -> bool {
        !self.loopback_shut && (self.localhost || self.cidrs.iter().any(is_loopback))
    }

    /// The same without loopback. What asked for nothing else gets nothing.
    pub fn without_loopback(self) -> Reach {
        Reach { loopback_shut: true, ..self }
    }

    pub fn resolve(&self, host: &HostAddresses) -> NodePortAddresses {
        let everywhere = IpFamily::BOTH.map(|family| self.everywhere(family));
        if everywhere == [true, true] && !self.has_localhost() {
            return NodePortAddresses::AllLocal;
        }
        let mut addresses = BTreeSet::new();
        for (family, everywhere) in IpFamily::BOTH.into_iter().zip(everywhere) {
            let of_family = host.all.iter().filter(|address| IpFamily::of(**address) == family);
            addresses.extend(of_family.filter(|address| self.within(**address, everywhere)));
        }
        if self.primary {
            addresses.extend(&host.primary);
        }
        if self.localhost {
            addresses.insert(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        if self.loopback_shut {
            addresses.retain(|address| !address.is_loopback());
        }
        NodePortAddresses::Only(addresses)
    }

    /// A family of which the list says nothing is served on all its addresses, as kube-proxy does.
    fn everywhere(&self, family: IpFamily) -> bool {
        let mut of_family = self.cidrs.iter().filter(|cidr| IpFamily::of(cidr.addr()) == family).peekable();
        let nothing_said = !self.primary && !self.localhost && of_family.peek().is_none();
        self.all || nothing_said || of_family.any(|cidr| cidr.prefix_len() == 0)
    }

    fn within(&self, address: IpAddr, everywhere: bool) -> bool {
        if address.is_loopback() {
            return self.cidrs.iter().any(|cidr| is_loopback(cidr) && cidr.contains(&address));
        }
        everywhere || self.cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

/// `0.0.0.0/0` contains loopback and doesn't mean it.
fn is_loopback(cidr: &IpNet) -> bool {
    cidr.prefix_len() > 0 && cidr.addr().is_loopback()
}

/// The node's primary addresses: those its Node object lists first, InternalIPs before ExternalIPs, and `bindAddress`
/// before them.
pub fn primary_addresses(node: &Node, bind_address: Option<IpAddr>) -> Vec<IpAddr> {
    let listed = |kind: &str| {
        let addresses = node.status.addresses.iter().filter(move |address| &*address.type_ == kind);
        addresses.filter_map(|address| address.address.parse::<IpAddr>().ok()).collect::<Vec<_>>()
    };
    let candidates = bind_address.into_iter().filter(|address| !address.is_unspecified());
    let candidates: Vec<_> = candidates.chain(listed("InternalIP")).chain(listed("ExternalIP")).collect();
    let first = |family| candidates.iter().copied().find(|address| IpFamily::of(*address) == family);
    IpFamily::BOTH.into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(list: &[&str]) -> Option<Vec<String>> {
        resolve(list, |reach| reach)
    }

    fn resolve(list: &[&str], change: impl Fn(Reach) -> Reach) -> Option<Vec<String>> {
        let list: Vec<_> = list.iter().map(|entry| (*entry).to_owned()).collect();
        let addresses = ["127.0.0.1", "::1", "10.0.0.5", "192.0.2.5", "fd00::5", "fe80::1"];
        let host = HostAddresses {
            all: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            primary: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        };
        match change(Reach::of(&list)).resolve(&host) {
            NodePortAddresses::AllLocal => None,
            NodePortAddresses::Only(only) => Some(only.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn keywords_and_networks_mix() {
        assert_eq!(resolved(&[]), None);
        assert_eq!(resolved(&["all"]), None);
        assert_eq!(resolved(&["0.0.0.0/0", "::/0"]), None);
        assert_eq!(resolved(&["primary"]).unwrap(), ["10.0.0.5", "fd00::5"]);
        assert_eq!(resolved(&["localhost"]).unwrap(), ["127.0.0.1"]);
        assert_eq!(resolved(&["primary", "192.0.2.0/24"]).unwrap(), ["10.0.0.5", "192.0.2.5", "fd00::5"]);
        let everything = ["10.0.0.5", "127.0.0.1", "192.0.2.5", "fd00::5", "fe80::1"];
        assert_eq!(resolved(&["all", "localhost"]).unwrap(), everything);
        assert_eq!(resolved(&["127.0.0.0/8", "::1/128"]).unwrap(), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn with_loopback_shut_nobody_gets_more_than_was_asked_for() {
        let shut = |list: &[&str]| resolve(list, Reach::without_loopback);
        assert_eq!(shut(&["localhost"]).unwrap(), [""; 0]);
        assert_eq!(shut(&["127.0.0.0/8", "::1/128"]).unwrap(), [""; 0]);
        assert_eq!(shut(&["localhost", "all"]), None);
        assert_eq!(shut(&["localhost", "primary"]).unwrap(), ["10.0.0.5", "fd00::5"]);
    }

    #[test]
    fn a_family_nothing_is_said_of_is_served_everywhere() {
        assert_eq!(resolved(&["192.0.2.0/24"]).unwrap(), ["192.0.2.5", "fd00::5", "fe80::1"]);
        assert_eq!(resolved(&["fd00::/64"]).unwrap(), ["10.0.0.5", "192.0.2.5", "fd00::5"]);
    }

    #[test]
    fn the_first_of_each_family_is_primary() {
        let node: Node = serde_json::from_str(
            r#"{"metadata":{"name":"n"},"status":{"addresses":[{"type":"ExternalIP","address":"198.51.100.1"},
            {"type":"InternalIP","address":"10.0.0.5"},{"type":"InternalIP","address":"10.0.0.6"},
            {"type":"ExternalIP","address":"fd00::5"}]}}"#,
        )
        .unwrap();
        let shown = |bind: Option<&str>| {
            let primary = primary_addresses(&node, bind.map(|bind| bind.parse().unwrap()));
            primary.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(Some("0.0.0.0")), ["10.0.0.5", "fd00::5"]);
        assert_eq!(shown(Some("10.0.0.9")), ["10.0.0.9", "fd00::5"]);
    }
}
