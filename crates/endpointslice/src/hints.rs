//! Which zones and nodes each endpoint is meant for: `spec.trafficDistribution` and the older annotation
//! `service.kubernetes.io/topology-mode`. Not responsible for honouring hints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

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

/// Sets the hints of all endpoints of one family. Endpoints that are not ready get none.
pub fn assign(service: &Service, endpoints: &mut [&mut Endpoint], topology: &Topology) -> Result<(), HintsDisabled> {
    endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
    let mut ready: Vec<&mut Endpoint> =
        endpoints.iter_mut().map(|endpoint| &mut **endpoint).filter(|endpoint| is_ready(endpoint)).collect();
    let distribution = distribution(service);
    match distribution {
        Distribution::None => {}
        Distribution::SameZone | Distribution::SameNode => {
            for endpoint in ready {
                let node = endpoint.node_name.clone().filter(|_| distribution == Distribution::SameNode);
                let hints = EndpointHints {
                    for_zones: endpoint.zone.clone().map(|name| vec![ForZone { name }]),
                    for_nodes: node.map(|name| vec![ForNode { name }]),
                };
                endpoint.hints = Some(hints).filter(|hints| *hints != EndpointHints::default());
            }
        }
        Distribution::Auto if ready.is_empty() => {}
        Distribution::Auto => {
            let zones = share_out(&ready, topology)?;
            for (endpoint, name) in ready.iter_mut().zip(zones) {
                endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name }]), for_nodes: None });
            }
        }
    }
    Ok(())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// How many endpoints a zone must and should have, and has.
struct Allocation {
    minimum: usize,
    desired: f64,
    count: usize,
}

/// A zone for each endpoint: its own, except where a zone with less than its minimum takes from the zone that has most
/// more than its share.
fn share_out(ready: &[&mut Endpoint], topology: &Topology) -> Result<Vec<String>, HintsDisabled> {
    let shares = topology.shares()?;
    if ready.len() < shares.len() {
        return Err(HintsDisabled::TooFewEndpoints { endpoints: ready.len(), zones: shares.len() });
    }
    let mut allocations: BTreeMap<String, Allocation> = shares
        .into_iter()
        .map(|(zone, share)| {
            let desired = share * ready.len() as f64;
            let minimum = (desired / (1.0 + OVERLOAD)).ceil() as usize;
            (zone.to_owned(), Allocation { minimum, desired, count: 0 })
        })
        .collect();
    let mut zones = Vec::with_capacity(ready.len());
    for endpoint in ready {
        let zone = endpoint.zone.clone().unwrap_or_default();
        let Some(allocation) = allocations.get_mut(&zone) else {
            let address = endpoint.addresses.first().cloned().unwrap_or_default();
            return Err(HintsDisabled::EndpointWithoutZone(address));
        };
        allocation.count += 1;
        zones.push(zone);
    }
    if allocations.values().map(|allocation| allocation.minimum).sum::<usize>() > ready.len() {
        return Err(HintsDisabled::Overload(ready.len()));
    }
    while let Some(poor) = poorest(&allocations) {
        let Some(rich) = richest(&allocations) else { return Err(HintsDisabled::Overload(ready.len())) };
        // The last one, so that most endpoints keep their own zone in a stable order.
        let Some(moved) = zones.iter().rposition(|zone| *zone == rich) else { break };
        zones[moved].clone_from(&poor);
        for (zone, change) in [(poor, 1), (rich, -1)] {
            if let Some(allocation) = allocations.get_mut(&zone) {
                allocation.count = allocation.count.saturating_add_signed(change);
            }
        }
    }
    Ok(zones)
}

fn poorest(allocations: &BTreeMap<String, Allocation>) -> Option<String> {
    allocations.iter().find(|(_, allocation)| allocation.count < allocation.minimum).map(|(zone, _)| zone.clone())
}

fn richest(allocations: &BTreeMap<String, Allocation>) -> Option<String> {
    let surplus = |allocation: &Allocation| allocation.count as f64 - allocation.desired;
    allocations
        .iter()
        .filter(|(_, allocation)| allocation.count > allocation.minimum)
        .max_by(|a, b| surplus(a.1).total_cmp(&surplus(b.1)))
        .map(|(zone, _)| zone.clone())
}
