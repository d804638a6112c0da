//! What the rules depend on besides Services.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use iptables::Rule;
use service_model::{ForwardingTable, InterfaceMatch, IpFamily, NodePortAddresses, ServicePort};

/// With more endpoints than this their rules carry no comments, which would be most of the text. As all of those rules are
/// written anew then, it takes clearly fewer endpoints for them to come back.
const MANY_ENDPOINTS: usize = 1_000;
const FEW_ENDPOINTS: usize = 800;

/// What an operator may choose for this mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Marks packets to be masqueraded (`masqueradeBit: 14`).
    pub masquerade_mark: u32,
    /// Packets that connection tracking can't place are dropped when forwarded, since their answers would leave without
    /// being translated back.
    pub drop_invalid: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { masquerade_mark: 1 << 14, drop_invalid: true }
    }
}

/// Some of the node's own pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    Within(IpNet),
    /// By the link their packets come in by, as the tools write it.
    Behind(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: IpFamily,
    pub tuning: Tuning,
    pub local_pods: Vec<Pods>,
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: NodePortAddresses,
    pub node_addresses: BTreeSet<IpAddr>,
    /// Rules of endpoints carry comments.
    pub commented: bool,
}

impl Pods {
    fn of(table: &ForwardingTable) -> Vec<Pods> {
        let link = table.local_interface.as_ref().map(|link| match link {
            InterfaceMatch::Named(name) => Pods::Behind(name.clone()),
            InterfaceMatch::Prefix(prefix) => Pods::Behind(format!("{prefix}+")),
        });
        table.local_pods.iter().copied().map(Pods::Within).chain(link).collect()
    }

    /// What they send.
    pub fn among(&self, rule: Rule) -> Rule {
        match self {
            Pods::Within(net) => rule.source(*net),
            Pods::Behind(link) => rule.input(link),
        }
    }

    /// What anybody else sends.
    pub fn beside(&self, rule: Rule) -> Rule {
        match self {
            Pods::Within(net) => rule.not_source(*net),
            Pods::Behind(link) => rule.not_input(link),
        }
    }
}

impl Settings {
    pub fn new(table: &ForwardingTable, tuning: Tuning) -> Settings {
        Settings {
            family: table.family,
            tuning,
            local_pods: Pods::of(table),
            service_cidrs: table.service_cidrs.clone(),
            node_ports: table.node_ports.clone(),
            node_addresses: table.node_addresses.iter().copied().collect(),
            commented: true,
        }
    }

    /// With comments or without, by the number of endpoints and by how the rules were written `before`.
    pub fn commented(self, endpoints: usize, before: Option<bool>) -> Settings {
        let commented = match endpoints {
            ..FEW_ENDPOINTS => true,
            FEW_ENDPOINTS..=MANY_ENDPOINTS => before.unwrap_or(true),
            _ => false,
        };
        Settings { commented, ..self }
    }

    pub fn loopback(&self) -> IpNet {
        match self.family {
            IpFamily::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpFamily::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        }
    }

    /// Whether NodePorts answer on 127.0.0.0/8. IPv6 has no way to route its loopback address.
    pub fn localhost_answers(&self) -> bool {
        let listed = match &self.node_ports {
            NodePortAddresses::AllLocal => false,
            NodePortAddresses::Only(addresses) => addresses.iter().any(IpAddr::is_loopback),
        };
        listed && self.family == IpFamily::V4
    }
}

/// How many endpoints there are. Each list counts as a whole: this is asked with every change, and needs no more precision.
pub fn endpoints<'a>(ports: impl IntoIterator<Item = &'a Arc<ServicePort>>) -> usize {
    let widest = |port: &Arc<ServicePort>| port.internal.endpoints().len().max(port.external.endpoints().len());
    ports.into_iter().map(widest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_model::{NodeView, ServiceModel};

    #[test]
    fn a_pod_more_or_less_does_not_turn_comments_on_and_off() {
        let table = ServiceModel::new().resolve(&NodeView::named("here"), IpFamily::V4);
        let mut before = None;
        for (endpoints, commented) in
            [(900, true), (1_000, true), (1_001, false), (1_000, false), (800, false), (799, true), (1_000, true)]
        {
            let settings = Settings::new(&table, Tuning::default()).commented(endpoints, before);
            assert_eq!(settings.commented, commented, "{endpoints} after {before:?}");
            before = Some(commented);
        }
    }
}
