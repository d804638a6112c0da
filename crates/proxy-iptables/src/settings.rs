//! What the rules depend on besides Services.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use service_model::{ForwardingTable, IpFamily, NodePortAddresses, ServicePort};

/// Endpoints from which on the rules of endpoints carry no comments, which would be most of the text.
const MANY_ENDPOINTS: usize = 1_000;

/// What an operator may choose for this mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Marks packets to be masqueraded (`masqueradeBit: 14`).
    pub masquerade_mark: u32,
    /// NodePorts answer on 127.0.0.0/8 too. Needs `allow_localhost_node_ports`.
    pub localhost_node_ports: bool,
    /// Packets that connection tracking can't place are dropped when forwarded, since their answers would leave without
    /// being translated back.
    pub drop_invalid: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { masquerade_mark: 1 << 14, localhost_node_ports: false, drop_invalid: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub family: IpFamily,
    pub tuning: Tuning,
    pub local_pods: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub node_ports: NodePortAddresses,
    pub node_addresses: BTreeSet<IpAddr>,
    /// Rules of endpoints carry comments.
    pub commented: bool,
}

impl Settings {
    pub fn new(table: &ForwardingTable, tuning: Tuning) -> Settings {
        // Each list counts as a whole: this is asked with every change, and needs no more precision.
        let lists = |port: &ServicePort| port.internal.endpoints().len().max(port.external.endpoints().len());
        let endpoints: usize = table.ports.values().map(|port| lists(port)).sum();
        Settings {
            family: table.family,
            tuning,
            local_pods: table.local_pods.clone(),
            service_cidrs: table.service_cidrs.clone(),
            node_ports: table.node_ports.clone(),
            node_addresses: table.node_addresses.clone(),
            commented: endpoints <= MANY_ENDPOINTS,
        }
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
            NodePortAddresses::AllLocal => self.tuning.localhost_node_ports,
            NodePortAddresses::Only(addresses) => addresses.iter().any(IpAddr::is_loopback),
        };
        listed && self.family == IpFamily::V4
    }
}

/// Lets the kernel route 127.0.0.0/8, without which localhost NodePorts reach nobody. The rules keep neighbours from using
/// it (CVE-2020-8558), so call it when they are in force.
pub fn allow_localhost_node_ports() -> std::io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
}
