//! Which zones and nodes each endpoint is meant for: `spec.trafficDistribution` and the older annotation
//! `service.kubernetes.io/topology-mode`. Not responsible for honouring hints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

use crate::endpoints_of;
use crate::topology::Topology;

const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// How much more than its share of endpoints a zone's traffic may put on each of its endpoints.
const OVERLOAD: f64 = 0.2;

/// Why no hints are given although the annotation asks for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum HintsDisabled {
    #[error("topology-aware hints are off: some ready node has no zone label")]
    NodeWithoutZone,
    #[error("topology-aware hints are off: some ready node has no allocatable CPU")]
    NodeWithoutCpu,
    #[error("topology-aware hints are off: fewer than two zones have ready nodes")]
    TooFewZones,
    #[error("topology-aware hints are off: fewer ready endpoints ({endpoints}) than zones ({zones})")]
    TooFewEndpoints { endpoints: usize, zones: usize },
    #[error("topology-aware hints are off: endpoint {0} is in no known zone")]
    EndpointWithoutZone(String),
    #[error("topology-aware hints are off: {0} endpoints cannot be shared out within 20% of the zones' CPU")]
    Overload(usize),
}

/// How a Service wants its traffic kept close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    None,
    SameZone,
    SameNode,
    /// By the zones' shares of CPU.
    Auto,
}

/// The annotation wins over the field.
pub fn distribution(service: &Service) -> Distribution {
    let annotations = service.metadata.annotations.as_ref();
    let annotation = |key| annotations.and_then(|annotations| annotations.get(key)).map(String::as_str);
    if let Some("Auto" | "auto") = annotation(TOPOLOGY_MODE).or_else(|| annotation(TOPOLOGY_AWARE_HINTS)) {
        return Distribution::Auto;
    }
    match service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        _ => Distribution::None,
    }
}

/// Sets the hints of one endpoint to its own zone, or zone and node. One that is not ready gets none.
pub fn keep_close(distribution: Distribution, endpoint: &mut Endpoint) {
    endpoint.hints = None;
    if !matches!(distribution, Distribution::SameZone | Distribution::SameNode) || !is_ready(endpoint) {
        return;
    }
    let node = endpoint.node_name.clone().filter(|_| distribution == Distribution::SameNode);
    let hints = EndpointHints {
        for_zones: endpoint.zone.clone().map(|name| vec![ForZone { name }]),
        for_nodes: node.map(|name| vec![ForNode { name }]),
    };
    endpoint.hints = Some(hints).filter(|hints| *hints != EndpointHints::default());
}

/// Shares the ready endpoints of one family out over the zones by capacity. Slices in `unchanged` keep their hints
/// as long as those fit; the others are moved to `written`, whose endpoints are hinted to their own zones and then, where
/// a zone has too few, to that one. Without a way to do it, all hints go.
pub fn share_out(
    written: &mut Vec<EndpointSlice>,
    unchanged: &mut Vec<EndpointSlice>,
    topology: &Topology,
) -> Result<(), HintsDisabled> {
    written.iter_mut().for_each(strip);
    let shared = try_share_out(written, unchanged, topology);
    if shared.is_err() {
        written.iter_mut().for_each(strip);
        let hinted = |slice: &mut EndpointSlice| endpoints_of(slice).iter().any(|endpoint| endpoint.hints.is_some());
        let mut moved: Vec<EndpointSlice> = unchanged.extract_if(.., hinted).collect();
        moved.iter_mut().for_each(strip);
        written.append(&mut moved);
    }
    // Whether anything would have been ready to be hinted: a Service that is starting is no news.
    let ready = written.iter().chain(&*unchanged).flat_map(endpoints_of).any(is_ready);
    if ready { shared } else { Ok(()) }
}

fn strip(slice: &mut EndpointSlice) {
    slice.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.hints = None);
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// How many endpoints a zone must, may and should have.
struct Allocation {
    minimum: usize,
    maximum: usize,
    desired: f64,
}

type Allocations = BTreeMap<String, Allocation>;
type Counts = BTreeMap<String, usize>;

fn try_share_out(
    written: &mut Vec<EndpointSlice>,
    unchanged: &mut Vec<EndpointSlice>,
    topology: &Topology,
) -> Result<(), HintsDisabled> {
    let ready = written.iter().chain(&*unchanged).flat_map(endpoints_of).filter(|endpoint| is_ready(endpoint)).count();
    let allocations = allocations(topology, ready)?;
    let mut counts = Counts::new();
    for slice in std::mem::take(unchanged) {
        match held(&slice, &counts, &allocations) {
            Some(held) => {
                held.into_iter().for_each(|(zone, count)| *counts.entry(zone).or_default() += count);
                unchanged.push(slice);
            }
            None => written.push(slice),
        }
    }
    let mut ready: Vec<&mut Endpoint> = written
        .iter_mut()
        .flat_map(|slice| slice.endpoints.iter_mut().flatten())
        .filter(|endpoint| is_ready(endpoint))
        .collect();
    for endpoint in &mut ready {
        let Some(zone) = endpoint.zone.clone() else {
            let address = endpoint.addresses.first().cloned().unwrap_or_default();
            return Err(HintsDisabled::EndpointWithoutZone(address));
        };
        *counts.entry(zone.clone()).or_default() += 1;
        endpoint.hints = hint(zone);
    }
    let (mut giving, mut receiving) = moves(&allocations, &counts);
    for endpoint in &mut ready {
        let Some(gives) = endpoint.zone.as_ref().and_then(|zone| giving.get_mut(zone)).filter(|left| **left > 0) else {
            continue;
        };
        let Some((zone, takes)) = receiving.iter_mut().find(|(_, left)| **left > 0) else { break };
        *gives -= 1;
        *takes -= 1;
        endpoint.hints = hint(zone.clone());
    }
    Ok(())
}

fn hint(zone: String) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None })
}

fn allocations(topology: &Topology, ready: usize) -> Result<Allocations, HintsDisabled> {
    let shares = topology.shares()?;
    if ready < shares.len() {
        return Err(HintsDisabled::TooFewEndpoints { endpoints: ready, zones: shares.len() });
    }
    let mut allocations = Allocations::new();
    for (zone, share) in shares {
        let desired = share * ready as f64;
        let minimum = (desired * (1.0 / (1.0 + OVERLOAD))).ceil() as usize;
        let allocation = Allocation { minimum, maximum: minimum, desired: desired.max(minimum as f64) };
        allocations.insert(zone.to_owned(), allocation);
    }
    let least: usize = allocations.values().map(|allocation| allocation.minimum).sum();
    let spare = ready.checked_sub(least).ok_or(HintsDisabled::Overload(ready))?;
    allocations.values_mut().for_each(|allocation| allocation.maximum += spare);
    Ok(allocations)
}

/// The hints of a slice by zone, if every ready endpoint has one and all of them fit beside those counted already.
fn held(slice: &EndpointSlice, counts: &Counts, allocations: &Allocations) -> Option<Counts> {
    let mut held = Counts::new();
    for endpoint in endpoints_of(slice).iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref()?.for_zones.as_deref().filter(|zones| !zones.is_empty())?;
        for zone in zones {
            *held.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, count): (&String, &usize)| {
        let already = counts.get(zone).copied().unwrap_or(0);
        allocations.get(zone).is_some_and(|allocation| already + count <= allocation.maximum)
    };
    held.iter().all(fits).then_some(held)
}

/// How many endpoints each zone gives away, and takes: as upstream rounds, never less than half an endpoint.
fn moves(allocations: &Allocations, counts: &Counts) -> (Counts, Counts) {
    let (mut over, mut under) = (BTreeMap::new(), BTreeMap::new());
    for (zone, allocation) in allocations {
        let count = counts.get(zone).copied().unwrap_or(0) as f64;
        if count > allocation.desired {
            over.insert(zone.clone(), count - allocation.desired);
        } else if count < allocation.desired {
            under.insert(zone.clone(), allocation.desired - count);
        }
    }
    let (mut giving, mut receiving) = (Counts::new(), Counts::new());
    while let (Some((from, gives)), Some((to, takes))) = (most(&over), most(&under)) {
        if gives < 0.5 || takes < 0.5 || (gives < 1.0 && takes < 1.0) {
            break;
        }
        for (zone, left, moved) in [(from, &mut over, &mut giving), (to, &mut under, &mut receiving)] {
            left.entry(zone.clone()).and_modify(|left| *left -= 1.0);
            *moved.entry(zone).or_default() += 1;
        }
    }
    (giving, receiving)
}

fn most(zones: &BTreeMap<String, f64>) -> Option<(String, f64)> {
    let positive = zones.iter().filter(|(_, left)| **left > 0.0);
    // The first of equals.
    let most = positive.rev().max_by(|a, b| a.1.total_cmp(b.1));
    most.map(|(zone, left)| (zone.clone(), *left))
}
