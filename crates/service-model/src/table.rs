//! The type the project turns on: what a proxy has to make true on one node for one IP family. Every policy is in here
//! as a result. Not responsible for how it comes about (`resolve`) nor for what it means for a packet (`lookup`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::names::{IpFamily, Port, Protocol, Revision, ServiceName, ServicePortName};
use crate::node::{InterfaceMatch, NodePortAddresses, NodeView};
use crate::problem::{Problem, ProblemReason};

/// All Service ports of one family, resolved for one node.
#[derive(Clone, Debug)]
pub struct ForwardingTable {
    pub revision: Revision,
    pub family: IpFamily,
    /// Shared, so that a backend can keep it without copying ten thousand entries.
    pub ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
    /// Where the node's own pods live. Empty: they cannot be told from strangers.
    pub local_pods: Vec<IpNet>,
    /// The links that their packets come in by, if that is how they are told.
    pub local_interface: Option<InterfaceMatch>,
    pub node_ports: NodePortAddresses,
    /// Known addresses of the node, in the order in which it prefers them.
    pub node_addresses: Vec<IpAddr>,
    /// Packets to an address in here that no Service has are dropped.
    pub service_cidrs: Vec<IpNet>,
    /// A hint: what the last update touched. A plan has to be right without it.
    pub changes: Changes,
    pub(crate) index: Index,
}

/// Which ports differ from the table as it was at `since`; `None` means "look at everything".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub since: Option<Revision>,
    pub ports: BTreeSet<ServicePortName>,
}

/// One port of one Service, all decisions taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub frontends: Vec<Frontend>,
    /// Frontends that another Service port owns; they take over when that one goes.
    pub shadowed: Vec<Frontend>,
    /// For traffic to cluster IPs.
    pub internal: Verdict,
    /// For traffic to every other frontend.
    pub external: Verdict,
    /// What pods here and the node itself meet at external frontends, where that differs from `external`.
    pub local_traffic: Option<Verdict>,
    pub affinity: Option<Affinity>,
    /// Who may use the load-balancer addresses; `None` is everybody.
    pub source_ranges: Option<SourceRanges>,
    pub masquerade: MasqueradeRule,
    pub health_check: Option<HealthCheck>,
    /// For UDP: with whom a flow may stay that began earlier. Wider than what new flows are given: whoever still serves.
    pub flows_may_stay_with: BTreeSet<SocketAddr>,
}

/// Where a Service port can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    ClusterIp { address: IpAddr, port: Port },
    ExternalIp { address: IpAddr, port: Port },
    LoadBalancerIp { address: IpAddr, port: Port },
    NodePort { port: Port },
}

/// What a packet has to carry to meet a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKey {
    Address(IpAddr, Protocol, Port),
    NodePort(Protocol, Port),
}

/// What happens to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward(EndpointSet),
    /// Answered with "port unreachable".
    Reject,
    /// Not answered.
    Drop,
}

/// Endpoints in address order; never empty inside a [`Verdict::Forward`]. Shared by the verdicts that have the same.
pub type EndpointSet = Arc<[Endpoint]>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: Port,
    /// Whether it is on this node.
    pub local: bool,
    /// Its node, if the slice says.
    pub node: Option<Arc<str>>,
}

/// A client's connections go to the same endpoint until it has made none for this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity {
    pub timeout_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRanges {
    pub allowed: Vec<IpNet>,
    /// The node lies inside the ranges, so packets whose source is the load-balancer address itself are its own.
    pub virtual_address_too: bool,
}

/// Whose source address is replaced by the node's; hairpin traffic always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Masquerade {
    pub local_pods: bool,
    pub node: bool,
    pub others: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MasqueradeRule {
    /// At cluster IPs.
    pub internal: Masquerade,
    /// At every other frontend.
    pub external: Masquerade,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub port: Port,
    pub local_ready_endpoints: usize,
}

/// Who wants and who owns each frontend. Derived from `ports`; kept so that a change costs what it touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// In name order: the first one owns it.
    claims: BTreeMap<FrontendKey, Vec<ServicePortName>>,
    cluster_ips: BTreeMap<IpAddr, usize>,
    problems: BTreeMap<ServiceName, Vec<Problem>>,
}

impl Masquerade {
    pub const NEVER: Masquerade = Masquerade { local_pods: false, node: false, others: false };
    pub const ALWAYS: Masquerade = Masquerade { local_pods: true, node: true, others: true };
}

impl Frontend {
    pub fn port(&self) -> Port {
        match *self {
            Frontend::ClusterIp { port, .. }
            | Frontend::ExternalIp { port, .. }
            | Frontend::LoadBalancerIp { port, .. }
            | Frontend::NodePort { port } => port,
        }
    }

    pub fn address(&self) -> Option<IpAddr> {
        match *self {
            Frontend::ClusterIp { address, .. }
            | Frontend::ExternalIp { address, .. }
            | Frontend::LoadBalancerIp { address, .. } => Some(address),
            Frontend::NodePort { .. } => None,
        }
    }

    pub fn key(&self, protocol: Protocol) -> FrontendKey {
        match self.address() {
            Some(address) => FrontendKey::Address(address, protocol, self.port()),
            None => FrontendKey::NodePort(protocol, self.port()),
        }
    }

    pub fn is_internal(&self) -> bool {
        matches!(self, Frontend::ClusterIp { .. })
    }
}

impl Verdict {
    pub fn endpoints(&self) -> &[Endpoint] {
        match self {
            Verdict::Forward(endpoints) => endpoints,
            Verdict::Reject | Verdict::Drop => &[],
        }
    }
}

impl Endpoint {
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.number())
    }
}

impl ServicePort {
    /// The verdict traffic from anywhere but this node meets at a frontend.
    pub fn verdict(&self, frontend: &Frontend) -> &Verdict {
        if frontend.is_internal() { &self.internal } else { &self.external }
    }

    /// The verdict pods here and the node itself meet at a frontend.
    pub fn local_verdict(&self, frontend: &Frontend) -> &Verdict {
        match &self.local_traffic {
            Some(verdict) if !frontend.is_internal() => verdict,
            _ => self.verdict(frontend),
        }
    }

    pub fn masquerade_at(&self, frontend: &Frontend) -> Masquerade {
        if frontend.is_internal() { self.masquerade.internal } else { self.masquerade.external }
    }

    /// Every endpoint any verdict forwards to, each once.
    pub fn endpoints(&self) -> BTreeSet<&Endpoint> {
        let verdicts = [Some(&self.internal), Some(&self.external), self.local_traffic.as_ref()];
        verdicts.into_iter().flatten().flat_map(Verdict::endpoints).collect()
    }
}

impl ForwardingTable {
    /// A table without Services.
    pub fn empty(node: &NodeView, family: IpFamily) -> ForwardingTable {
        let of_family = |address: &&IpAddr| IpFamily::of(**address) == family;
        ForwardingTable {
            revision: Revision::default(),
            family,
            ports: Arc::default(),
            local_pods: node.pod_cidrs_of(family),
            local_interface: node.local_interface().cloned(),
            node_ports: match &node.node_ports {
                NodePortAddresses::AllLocal => NodePortAddresses::AllLocal,
                NodePortAddresses::Only(only) => {
                    NodePortAddresses::Only(only.iter().filter(of_family).copied().collect())
                }
            },
            node_addresses: node.addresses.iter().filter(of_family).copied().collect(),
            service_cidrs: Vec::new(),
            changes: Changes::default(),
            index: Index::default(),
        }
    }

    /// Problems of all Services, in name order; conflicts between Services included.
    pub fn problems(&self) -> Vec<Problem> {
        let conflicts = self.ports.iter().flat_map(|(name, port)| {
            port.shadowed.iter().filter_map(|frontend| {
                let by = self.index.claims.get(&frontend.key(port.protocol))?.first()?.clone();
                let reason = ProblemReason::Shadowed { frontend: *frontend, by };
                Some(Problem { service: name.service.clone(), reason })
            })
        });
        let mut problems: Vec<Problem> = self.index.problems.values().flatten().cloned().chain(conflicts).collect();
        problems.sort();
        problems
    }

    /// The Service port that owns a frontend, and which of its frontends that is.
    pub fn owner(&self, key: FrontendKey) -> Option<(&ServicePortName, &ServicePort, &Frontend)> {
        let name = self.index.claims.get(&key)?.first()?;
        let port = self.ports.get(name)?;
        let frontend = port.frontends.iter().find(|frontend| frontend.key(port.protocol) == key)?;
        Some((name, port, frontend))
    }

    pub fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.index.cluster_ips.contains_key(&address)
    }

    /// Whether both tables ask a backend for the same, whatever way they came about.
    pub fn same_result(&self, other: &ForwardingTable) -> bool {
        self.family == other.family
            && self.ports == other.ports
            && self.local_pods == other.local_pods
            && self.local_interface == other.local_interface
            && self.node_ports == other.node_ports
            && self.node_addresses == other.node_addresses
            && self.service_cidrs == other.service_cidrs
            && self.index == other.index
    }

    /// Replaces everything a Service has in here. Returns the names of the ports that differ now, of this Service and of
    /// those that gained or lost a frontend because of it.
    pub(crate) fn replace_service(
        &mut self,
        service: &ServiceName,
        ports: Vec<(ServicePortName, ServicePort)>,
        problems: Vec<Problem>,
    ) -> BTreeSet<ServicePortName> {
        let first = ServicePortName { service: service.clone(), port: Arc::from(""), protocol: Protocol::Tcp };
        let old: Vec<ServicePortName> = self
            .ports
            .range(first..)
            .map(|(name, _)| name)
            .take_while(|name| name.service == *service)
            .cloned()
            .collect();
        let map = Arc::make_mut(&mut self.ports);
        let mut touched: BTreeSet<FrontendKey> = BTreeSet::new();
        let mut before: BTreeMap<ServicePortName, Arc<ServicePort>> = BTreeMap::new();
        for name in old {
            if let Some(port) = map.remove(&name) {
                self.index.retract(&name, &port, &mut touched);
                before.insert(name, port);
            }
        }
        let mut changed: BTreeSet<ServicePortName> = before.keys().cloned().collect();
        for (name, port) in ports {
            self.index.claim(&name, &port, &mut touched);
            changed.insert(name.clone());
            map.insert(name, Arc::new(port));
        }
        for key in &touched {
            changed.extend(self.index.claims.get(key).into_iter().flatten().cloned());
        }
        self.index.problems.remove(service);
        if !problems.is_empty() {
            self.index.problems.insert(service.clone(), problems);
        }
        for name in &changed {
            if let Some(port) = map.get_mut(name) {
                if name.service != *service {
                    before.insert(name.clone(), port.clone());
                }
                self.index.settle(name, port);
                // An unchanged port keeps its identity, so that backends see at a glance that it is the same.
                if let Some(known) = before.get(name).filter(|known| *known == port) {
                    *port = known.clone();
                }
            }
        }
        changed.retain(|name| match (before.get(name), map.get(name)) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        });
        changed
    }
}

impl Index {
    fn retract(&mut self, name: &ServicePortName, port: &ServicePort, touched: &mut BTreeSet<FrontendKey>) {
        for frontend in port.frontends.iter().chain(&port.shadowed) {
            let key = frontend.key(port.protocol);
            touched.insert(key);
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|claim| claim != name);
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
            if let Frontend::ClusterIp { address, .. } = frontend
                && let Some(count) = self.cluster_ips.get_mut(address)
            {
                *count -= 1;
                if *count == 0 {
                    self.cluster_ips.remove(address);
                }
            }
        }
    }

    fn claim(&mut self, name: &ServicePortName, port: &ServicePort, touched: &mut BTreeSet<FrontendKey>) {
        for frontend in port.frontends.iter().chain(&port.shadowed) {
            let key = frontend.key(port.protocol);
            touched.insert(key);
            // Nearly always the only one.
            let claims = self.claims.entry(key).or_insert_with(|| Vec::with_capacity(1));
            let at = claims.partition_point(|claim| claim < name);
            claims.insert(at, name.clone());
            if let Frontend::ClusterIp { address, .. } = frontend {
                *self.cluster_ips.entry(*address).or_default() += 1;
            }
        }
    }

    /// Sorts a port's frontends into those it owns and those it does not.
    fn settle(&self, name: &ServicePortName, port: &mut Arc<ServicePort>) {
        let wanted: BTreeSet<Frontend> = port.frontends.iter().chain(&port.shadowed).copied().collect();
        let owner =
            |frontend: &Frontend| self.claims.get(&frontend.key(port.protocol)).and_then(|claims| claims.first());
        let (owned, shadowed): (Vec<Frontend>, Vec<Frontend>) =
            wanted.into_iter().partition(|frontend| owner(frontend) == Some(name));
        if owned != port.frontends || shadowed != port.shadowed {
            let port = Arc::make_mut(port);
            port.frontends = owned;
            port.shadowed = shadowed;
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Frontend::ClusterIp { .. } => "cluster IP",
            Frontend::ExternalIp { .. } => "external IP",
            Frontend::LoadBalancerIp { .. } => "load-balancer IP",
            Frontend::NodePort { port } => return write!(f, "node port {port}"),
        };
        match self.address() {
            Some(address) => write!(f, "{kind} {}", SocketAddr::new(address, self.port().number())),
            None => f.write_str(kind),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}
