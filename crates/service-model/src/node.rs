//! What forwarding on a node depends on besides Services: who the node is, which pods are its own, where NodePorts
//! answer. Not responsible for finding any of it out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::IpFamily;
use crate::objects::{Node, ZONE_LABEL};

/// On which of the node's addresses NodePorts answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// On every address the node has, except loopback.
    AllLocal,
    /// On these only.
    Only(BTreeSet<IpAddr>),
}

/// How the node's own pods are told from strangers: kube-proxy's `detectLocalMode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// By the pod CIDRs in the Node object.
    NodeCidrs,
    /// By these networks; usually all of the cluster's.
    Cidrs(Vec<IpNet>),
    /// By the interface their packets come in on.
    Interface(InterfaceMatch),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceMatch {
    Named(String),
    Prefix(String),
}

/// The node a table is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    pub zone: Option<String>,
    /// The addresses the node is known by, internal ones first and otherwise as its Node lists them. Backends that ask the
    /// kernel what is local do not need them.
    pub addresses: Vec<IpAddr>,
    /// Where the node's own pods have their addresses. Without one for a family, pods cannot be told from strangers.
    pub pod_cidrs: Vec<IpNet>,
    pub local_traffic: LocalTraffic,
    pub node_ports: NodePortAddresses,
    pub masquerade_all: bool,
    /// Cluster IPs may be loopback addresses: whoever makes them work relays, since the kernel translates no packet out of
    /// the loopback (without `route_localnet`).
    pub serves_loopback: bool,
}

impl NodeView {
    /// A node of which nothing but the name is known yet.
    pub fn named(name: impl Into<String>) -> NodeView {
        NodeView {
            name: name.into(),
            zone: None,
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            local_traffic: LocalTraffic::NodeCidrs,
            node_ports: NodePortAddresses::AllLocal,
            masquerade_all: false,
            serves_loopback: false,
        }
    }

    /// Takes over what the Node object says: zone, pod CIDRs, addresses. Values that do not parse are left out.
    pub fn observe(&mut self, node: &Node) {
        self.zone = node.metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(str::to_owned);
        self.pod_cidrs = match &self.local_traffic {
            LocalTraffic::NodeCidrs => {
                let listed = &node.spec.pod_cidrs;
                let cidrs =
                    if listed.is_empty() { std::slice::from_ref(&node.spec.pod_cidr) } else { listed.as_slice() };
                cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
            }
            LocalTraffic::Cidrs(cidrs) => cidrs.clone(),
            LocalTraffic::Interface(_) => Vec::new(),
        };
        let listed = |kind: &'static str| {
            let of_kind = node.status.addresses.iter().filter(move |address| &*address.type_ == kind);
            of_kind.filter_map(|address| address.address.parse().ok())
        };
        self.addresses = listed("InternalIP").chain(listed("ExternalIP")).collect();
    }

    /// The links that the node's own pods are told by, if it is not by their addresses.
    pub fn local_interface(&self) -> Option<&InterfaceMatch> {
        match &self.local_traffic {
            LocalTraffic::Interface(interface) => Some(interface),
            _ => None,
        }
    }

    /// The pod networks of one family.
    pub fn pod_cidrs_of(&self, family: IpFamily) -> Vec<IpNet> {
        self.pod_cidrs.iter().filter(|cidr| IpFamily::of(cidr.addr()) == family).map(IpNet::trunc).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_addresses_come_first_in_the_order_they_are_listed() {
        let node: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}, "status": {"addresses": [
            {"type": "ExternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"},
            {"type": "InternalIP", "address": "192.0.2.9"}, {"type": "InternalIP", "address": "192.0.2.1"}]}}))
            .unwrap();
        let mut view = NodeView::named("n");
        view.observe(&node);
        assert_eq!(view.addresses, ["192.0.2.9", "192.0.2.1", "10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap()));
    }
}
