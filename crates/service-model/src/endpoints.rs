//! Which endpoints of a Service port may be used: merging slices, readiness with the serving-and-terminating fallback,
//! topology hints. Not responsible for traffic policies, which choose among the results.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::compact::EndpointAddress;
use crate::names::{IpFamily, Port, Protocol, ServiceName};
use crate::node::NodeView;
use crate::objects::{EndpointHints, EndpointSlice, ForName, SliceEndpoint};
use crate::problem::{Problem, ProblemReason};
use crate::table::{Endpoint, EndpointSet};

/// An endpoint as a slice has it, before any choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub endpoint: Endpoint,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub for_zones: BTreeSet<String>,
    pub for_nodes: BTreeSet<String>,
}

/// How hints narrow the choice (KEP-2433, KEP-4444). Hints count only if every ready endpoint has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyMode {
    All,
    SameZone,
    SameNode,
}

/// The outcome of looking at all of a port's endpoints.
pub(crate) struct Choice {
    /// For policy Cluster.
    pub cluster: EndpointSet,
    /// For policy Local.
    pub local: EndpointSet,
    /// Whether any node has a usable endpoint.
    pub any: bool,
    pub local_ready: usize,
}

impl Candidate {
    fn usable_when_none_ready(&self) -> bool {
        self.serving && self.terminating
    }
}

impl TopologyMode {
    /// Node hints win over zone hints; a partial set of hints counts for nothing.
    pub fn of(candidates: &[Candidate], node: &NodeView) -> TopologyMode {
        let ready = || candidates.iter().filter(|candidate| candidate.ready);
        if ready().all(|c| !c.for_nodes.is_empty()) && ready().any(|c| c.for_nodes.contains(&node.name)) {
            return TopologyMode::SameNode;
        }
        if let Some(zone) = &node.zone
            && ready().all(|c| !c.for_zones.is_empty())
            && ready().any(|c| c.for_zones.contains(zone))
        {
            return TopologyMode::SameZone;
        }
        TopologyMode::All
    }

    fn admits(self, candidate: &Candidate, node: &NodeView) -> bool {
        match self {
            TopologyMode::All => true,
            TopologyMode::SameNode => candidate.for_nodes.contains(&node.name),
            TopologyMode::SameZone => node.zone.as_ref().is_some_and(|zone| candidate.for_zones.contains(zone)),
        }
    }
}

pub(crate) fn choose(candidates: &[Candidate], node: &NodeView) -> Choice {
    let mode = TopologyMode::of(candidates, node);
    let pick = |keep: &dyn Fn(&Candidate) -> bool| -> EndpointSet {
        candidates.iter().filter(|c| keep(c)).map(|c| c.endpoint.clone()).collect()
    };
    let mut cluster = pick(&|c| c.ready && mode.admits(c, node));
    if cluster.is_empty() {
        cluster = pick(&Candidate::usable_when_none_ready);
    }
    let mut local = pick(&|c| c.ready && c.endpoint.local);
    let local_ready = local.len();
    if local.is_empty() {
        local = pick(&|c| c.usable_when_none_ready() && c.endpoint.local);
    }
    Choice { cluster, local, any: candidates.iter().any(|c| c.ready || c.usable_when_none_ready()), local_ready }
}

/// Merges the slices of a Service into the endpoints of one port, ordered by address. An address that several slices
/// list is taken once: ready wins over not ready, then here over elsewhere.
pub(crate) fn candidates<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: (&str, Protocol),
    family: IpFamily,
    node: &NodeView,
    report: &mut (ServiceName, Vec<Problem>),
) -> Vec<Candidate> {
    let mut merged: BTreeMap<(IpAddr, Port), Candidate> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type == family.address_type()) {
        for number in ports(slice, port) {
            for found in &slice.endpoints {
                let Some(candidate) = candidate(found, number, family, node) else {
                    bad_endpoint(slice, found, report);
                    continue;
                };
                let key = (candidate.endpoint.address, candidate.endpoint.port);
                match merged.get(&key) {
                    Some(known) if rank(known) >= rank(&candidate) => {}
                    _ => {
                        merged.insert(key, candidate);
                    }
                }
            }
        }
    }
    merged.into_values().collect()
}

/// The port numbers a slice has for a named Service port; more than one if the slice was written by hand that way.
fn ports<'a>(slice: &'a EndpointSlice, (name, protocol): (&'a str, Protocol)) -> impl Iterator<Item = Port> + 'a {
    slice
        .ports
        .iter()
        .filter(move |port| port.name == name && Protocol::parse(&port.protocol) == Some(protocol))
        .filter_map(|port| port.port.and_then(Port::from_api))
}

fn candidate(found: &SliceEndpoint, port: Port, family: IpFamily, node: &NodeView) -> Option<Candidate> {
    let EndpointAddress::Ip(address) = found.address else { return None };
    let unusable = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    if IpFamily::of(address) != family || unusable {
        return None;
    }
    let ready = found.conditions.ready.unwrap_or(true);
    let hinted = |of: fn(&EndpointHints) -> &Vec<ForName>| -> BTreeSet<String> {
        found.hints.iter().flat_map(|hints| of(hints)).map(|hint| hint.name.clone()).collect()
    };
    Some(Candidate {
        endpoint: Endpoint {
            address,
            port,
            local: found.node_name.as_deref() == Some(node.name.as_str()),
            node: found.node_name.clone(),
        },
        ready,
        serving: found.conditions.serving.unwrap_or(ready),
        terminating: found.conditions.terminating.unwrap_or(false),
        for_zones: hinted(|hints| &hints.for_zones),
        for_nodes: hinted(|hints| &hints.for_nodes),
    })
}

fn rank(candidate: &Candidate) -> (bool, bool, bool) {
    (candidate.ready, candidate.serving, candidate.endpoint.local)
}

fn bad_endpoint(slice: &EndpointSlice, found: &SliceEndpoint, (service, problems): &mut (ServiceName, Vec<Problem>)) {
    let value = found.address.to_string();
    let reason = ProblemReason::BadEndpoint { slice: slice.metadata.name.clone(), value };
    problems.push(Problem { service: service.clone(), reason });
}
