//! What a Service port has in the kernel. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use ipvs::{Destination, Family, Scheduler, Server, ServerKey};
use nft::{Key, Value};
use service_model::{
    Endpoint, EndpointSet, Frontend, FrontendKey, IpFamily, Masquerade, ServicePort, SourceRanges, Verdict,
};

use crate::layout::{Action, SetName, Settings};
use crate::object::{Content, ListMark, Object, frontend_key};

/// What the objects of all Service ports depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    pub settings: Settings,
    /// The node's own, where NodePorts answer.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// On other devices than ours: not ours to bind.
    pub node_addresses: BTreeSet<IpAddr>,
    pub scheduler: Scheduler,
    /// Virtual servers with these addresses are somebody else's (`ipvs.excludeCIDRs`).
    pub excluded: Vec<IpNet>,
}

/// Collects the objects of one port.
struct Compiler<'a> {
    circumstances: &'a Circumstances,
    port: &'a ServicePort,
    objects: Vec<(Object, Content)>,
}

/// The sets that say what becomes of a packet to one kind of frontend.
struct Maps {
    everybody: SetName,
    pods: SetName,
    node: SetName,
    lists: SetName,
}

const BY_ADDRESS: Maps = Maps {
    everybody: SetName::Frontends,
    pods: SetName::PodFrontends,
    node: SetName::NodeFrontends,
    lists: SetName::Lists,
};
const BY_NODE_PORT: Maps = Maps {
    everybody: SetName::NodePorts,
    pods: SetName::PodNodePorts,
    node: SetName::NodeNodePorts,
    lists: SetName::NodePortLists,
};

/// Whether pods here and the node are given another list than others at external frontends, so that the port needs a mark.
pub fn needs_mark(port: &ServicePort) -> bool {
    let external = |frontend: &Frontend| !frontend.is_internal();
    port.frontends.iter().any(|frontend| external(frontend) && other_list(port, frontend).is_some())
}

/// Everything of a port; `number` is its list's, if it needs one.
pub fn compile(port: &ServicePort, number: Option<u32>, circumstances: &Circumstances) -> Vec<(Object, Content)> {
    let mut compiler = Compiler { circumstances, port, objects: Vec::new() };
    for frontend in &port.frontends {
        let excluded = |address: IpAddr| circumstances.excluded.iter().any(|cidr| cidr.contains(&address));
        if !frontend.address().is_some_and(excluded) {
            compiler.frontend(frontend, number);
        }
    }
    compiler.hairpin();
    compiler.objects
}

/// What the server of a frontend's address has: what outsiders are given, and where they are given nothing, what others are.
fn own_list<'a>(port: &'a ServicePort, frontend: &Frontend) -> &'a [Endpoint] {
    match port.verdict(frontend) {
        Verdict::Forward(endpoints) => endpoints,
        _ => port.local_verdict(frontend).endpoints(),
    }
}

fn other_list<'a>(port: &'a ServicePort, frontend: &Frontend) -> Option<&'a EndpointSet> {
    match (port.verdict(frontend), port.local_verdict(frontend)) {
        (Verdict::Forward(own), Verdict::Forward(other)) if own != other => Some(other),
        _ => None,
    }
}

impl Compiler<'_> {
    fn put(&mut self, object: Object, content: Content) {
        self.objects.push((object, content));
    }

    fn frontend(&mut self, frontend: &Frontend, number: Option<u32>) {
        let key = frontend.key(self.port.protocol);
        let other = other_list(self.port, frontend).cloned();
        let masquerade = self.port.masquerade_at(frontend);
        let mark = other.as_ref().and(number).map(|number| ListMark::new(masquerade, self.port.protocol, number));
        self.verdicts(frontend, key, masquerade, mark);
        let endpoints = own_list(self.port, frontend).to_vec();
        for at in self.served_at(frontend) {
            let server = ServerKey::Address { protocol: self.port.protocol.number(), at };
            let affinity = self.port.affinity.map(|affinity| affinity.timeout_seconds);
            self.server(server, self.circumstances.scheduler.clone(), affinity, &endpoints);
            if let Some(ledger) = Object::ledger(&server) {
                self.put(ledger, Content::NOTHING);
            }
        }
        if let (Some(mark), Some(endpoints)) = (mark, other) {
            let family = family(self.circumstances.settings.family);
            let server = ServerKey::Mark { family, mark: mark.mark() };
            // A persistent server of a mark would leave the port as it is, so clients are told apart by a hash.
            let sticky = self.port.affinity.is_some();
            let scheduler = if sticky { Scheduler::maglev() } else { self.circumstances.scheduler.clone() };
            self.server(server, scheduler, None, &endpoints);
        }
        self.address(frontend);
        self.sources(frontend, key);
    }

    fn verdicts(&mut self, frontend: &Frontend, key: FrontendKey, masquerade: Masquerade, mark: Option<ListMark>) {
        let maps = if frontend.address().is_some() { BY_ADDRESS } else { BY_NODE_PORT };
        let action = |verdict: &Verdict, masquerade: bool, mark: Option<ListMark>| match verdict {
            Verdict::Reject => Action::Reject,
            Verdict::Drop => Action::Drop,
            Verdict::Forward(_) if mark.is_some() => Action::OtherList,
            Verdict::Forward(_) if masquerade => Action::Masquerade,
            Verdict::Forward(_) => Action::Forward,
        };
        let here = self.port.local_verdict(frontend);
        let everybody = action(self.port.verdict(frontend), masquerade.others, None);
        let key = frontend_key(key);
        let objects = [
            (maps.everybody, Some(everybody)),
            (maps.pods, Some(action(here, masquerade.local_pods, mark)).filter(|action| *action != everybody)),
            (maps.node, Some(action(here, masquerade.node, mark)).filter(|action| *action != everybody)),
        ];
        for (set, action) in objects {
            if let Some(action) = action {
                self.put(Object::Element(set, key.clone()), Content::action(action));
            }
        }
        if let Some(mark) = mark {
            self.put(Object::Element(maps.lists, key), Content::mark(mark));
        }
    }

    /// A server without endpoints stays: connections to its last ones go on.
    fn server(&mut self, key: ServerKey, scheduler: Scheduler, persistence: Option<u32>, endpoints: &[Endpoint]) {
        let options = scheduler.options();
        self.put(Object::Server(key), Content::Server(Server { scheduler, options, persistence }));
        for endpoint in endpoints {
            let content = Content::Destination(Destination::masqueraded(1));
            self.put(Object::Destination(key, endpoint.socket()), content);
        }
    }

    fn served_at(&self, frontend: &Frontend) -> Vec<SocketAddr> {
        let port = frontend.port().number();
        match frontend.address() {
            Some(address) => vec![SocketAddr::new(address, port)],
            None => {
                let excluded =
                    |address: &&IpAddr| self.circumstances.excluded.iter().any(|cidr| cidr.contains(*address));
                let addresses = self.circumstances.node_port_addresses.iter().filter(|address| !excluded(address));
                addresses.map(|address| SocketAddr::new(*address, port)).collect()
            }
        }
    }

    fn address(&mut self, frontend: &Frontend) {
        let Some(address) = frontend.address() else { return };
        if !self.circumstances.node_addresses.contains(&address) {
            self.put(Object::Address(address), Content::Address);
            self.put(Object::single(SetName::Bound, address), Content::NOTHING);
        }
        if frontend.is_internal() {
            self.put(Object::single(SetName::ClusterIps, address), Content::NOTHING);
        }
    }

    fn sources(&mut self, frontend: &Frontend, key: FrontendKey) {
        let (Frontend::LoadBalancerIp { address, .. }, Some(ranges)) = (frontend, &self.port.source_ranges) else {
            return;
        };
        let SourceRanges { allowed, virtual_address_too } = ranges;
        let mut allowed = allowed.clone();
        if *virtual_address_too {
            allowed.push((*address).into());
        }
        let key = frontend_key(key);
        self.put(Object::Element(SetName::Restricted, key.clone()), Content::NOTHING);
        // A set of intervals takes none inside another.
        for range in IpNet::aggregate(&allowed) {
            let bound = |address: IpAddr| {
                let mut bytes = key.start.as_bytes().to_vec();
                bytes.extend_from_slice(Value::addr(address).as_bytes());
                Value::new(bytes)
            };
            let range = Key::range(bound(range.network()), bound(range.broadcast()));
            self.put(Object::Element(SetName::AllowedSources, range), Content::NOTHING);
        }
    }

    /// Only an endpoint on this node can meet itself through it, unless nobody says where it is.
    fn hairpin(&mut self) {
        let unknown_pods = self.circumstances.settings.local_pods.is_empty();
        let endpoints: BTreeSet<IpAddr> = self
            .port
            .endpoints()
            .into_iter()
            .filter(|endpoint| endpoint.local || endpoint.node.is_none() || unknown_pods)
            .map(|endpoint| endpoint.address)
            .collect();
        for address in endpoints {
            let key = Value::concat().addr(address).addr(address).value();
            self.put(Object::Element(SetName::Hairpin, key.into()), Content::NOTHING);
        }
    }
}

pub fn family(family: IpFamily) -> Family {
    match family {
        IpFamily::V4 => Family::V4,
        IpFamily::V6 => Family::V6,
    }
}
