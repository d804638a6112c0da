//! The oracle: what happens to the first packet of a connection, according to a ForwardingTable. Written for being
//! obviously right, not for speed. Not responsible for later packets (they follow the first one's fate) nor for which of
//! several endpoints a backend picks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::names::{Port, Protocol};
use crate::node::NodePortAddresses;
use crate::table::{Endpoint, ForwardingTable, Frontend, FrontendKey, Masquerade, ServicePort, Verdict};

/// Who sends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A process in the node's own network namespace.
    Node(IpAddr),
    /// A pod of this node; its address lies in the node's pod CIDR, if that is known.
    LocalPod(IpAddr),
    /// A pod of another node.
    RemotePod(IpAddr),
    /// Anybody else.
    Outside(IpAddr),
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: Source,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: Port,
}

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes where it says: no Service is concerned.
    Untouched,
    Forwarded {
        /// One of these.
        endpoints: Vec<Endpoint>,
        /// Whether the node's address replaces the source. When the chosen endpoint is the source itself (hairpin), it
        /// does in any case.
        masquerade: bool,
    },
    Denied(Deny),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deny {
    /// The sender gets "port unreachable".
    Rejected,
    /// The sender gets nothing.
    Dropped,
}

impl Source {
    pub fn address(self) -> IpAddr {
        match self {
            Source::Node(address)
            | Source::LocalPod(address)
            | Source::RemotePod(address)
            | Source::Outside(address) => address,
        }
    }
}

impl Outcome {
    /// Whether a packet sent to `chosen` would be masqueraded.
    pub fn masquerades(&self, source: IpAddr, chosen: IpAddr) -> bool {
        matches!(self, Outcome::Forwarded { masquerade, .. } if *masquerade || source == chosen)
    }
}

impl ForwardingTable {
    pub fn lookup(&self, packet: &Packet) -> Outcome {
        let key = FrontendKey::Address(packet.destination, packet.protocol, packet.port);
        if let Some((_, port, frontend)) = self.owner(key) {
            if !admitted(port, key, packet.source.address()) {
                return Outcome::Denied(Deny::Dropped);
            }
            return self.outcome(packet.source, port, frontend);
        }
        if self.answers_node_ports(packet.destination)
            && let Some((_, port, frontend)) = self.owner(FrontendKey::NodePort(packet.protocol, packet.port))
        {
            return self.outcome(packet.source, port, frontend);
        }
        if self.is_cluster_ip(packet.destination) {
            return Outcome::Denied(Deny::Rejected);
        }
        if self.service_cidrs.iter().any(|cidr| cidr.contains(&packet.destination)) {
            return Outcome::Denied(Deny::Dropped);
        }
        Outcome::Untouched
    }

    fn outcome(&self, source: Source, port: &ServicePort, frontend: &Frontend) -> Outcome {
        let from_node = matches!(source, Source::Node(_));
        let by_link = self.local_interface.is_some() && matches!(source, Source::LocalPod(_));
        let by_address = self.local_pods.iter().any(|cidr| cidr.contains(&source.address()));
        let from_pod_here = !from_node && (by_link || by_address);
        let verdict = if from_node || from_pod_here { port.local_verdict(frontend) } else { port.verdict(frontend) };
        let Masquerade { local_pods, node, others } = port.masquerade_at(frontend);
        let masquerade = if from_node {
            node
        } else if from_pod_here {
            local_pods
        } else {
            others
        };
        match verdict {
            Verdict::Forward(endpoints) => Outcome::Forwarded { endpoints: endpoints.to_vec(), masquerade },
            Verdict::Reject => Outcome::Denied(Deny::Rejected),
            Verdict::Drop => Outcome::Denied(Deny::Dropped),
        }
    }

    fn answers_node_ports(&self, destination: IpAddr) -> bool {
        match &self.node_ports {
            NodePortAddresses::AllLocal => !destination.is_loopback() && self.node_addresses.contains(&destination),
            NodePortAddresses::Only(addresses) => addresses.contains(&destination),
        }
    }
}

/// Source ranges guard the load-balancer addresses of a Service, never its other frontends.
fn admitted(port: &ServicePort, key: FrontendKey, source: IpAddr) -> bool {
    let guarded = port
        .frontends
        .iter()
        .find(|frontend| matches!(frontend, Frontend::LoadBalancerIp { .. }) && frontend.key(port.protocol) == key);
    match (&port.source_ranges, guarded.and_then(Frontend::address)) {
        (Some(ranges), Some(virtual_address)) => {
            ranges.allowed.iter().any(|range| range.contains(&source))
                || (ranges.virtual_address_too && source == virtual_address)
        }
        _ => true,
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, from) = match self.source {
            Source::Node(address) => ("node", address),
            Source::LocalPod(address) => ("pod here", address),
            Source::RemotePod(address) => ("pod elsewhere", address),
            Source::Outside(address) => ("outside", address),
        };
        let to = SocketAddr::new(self.destination, self.port.number());
        write!(f, "{} from {kind} {from} to {to}", self.protocol)
    }
}
