//! What a Service port has in the kernel besides its endpoint lists: entries that lead to them, and elements that are just
//! there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use service_model::{Endpoint, Frontend, ServicePort, SourceRanges, Verdict};

use crate::layout::{Class, Settings};
use crate::mark::{ClassId, ListId, Mark, MasqueradeMode};
use crate::state::{Entry, Programmed, Scope, Single};

/// What a programmed port has in the kernel besides its lists.
pub(super) fn compile(
    programmed: &Programmed,
    classes: &BTreeMap<Class, ClassId>,
    settings: &Settings,
) -> (BTreeMap<Entry, Mark>, BTreeSet<Single>) {
    let port = &programmed.port;
    let mut entries = BTreeMap::new();
    let mut singles = BTreeSet::new();
    for frontend in &port.frontends {
        let key = frontend.key(port.protocol);
        let (verdict, here) = (port.verdict(frontend), port.local_verdict(frontend));
        let masquerade = port.masquerade_at(frontend);
        let internal = frontend.is_internal();
        let list = if internal { programmed.lists.internal } else { programmed.lists.external };
        let lists = (list, if internal || port.local_traffic.is_none() { list } else { programmed.lists.local });
        let mark = |mode, verdict: &Verdict, list: Option<ListId>| -> Option<Mark> {
            Some(match verdict {
                Verdict::Reject => Mark::new(mode, ClassId::REJECT, ListId::default()),
                Verdict::Drop => Mark::new(mode, ClassId::DROP, ListId::default()),
                Verdict::Forward(endpoints) => Mark::new(mode, *classes.get(&class_of(port, endpoints))?, list?),
            })
        };
        match MasqueradeMode::for_everybody(masquerade) {
            Some(mode) if verdict == here => {
                entries.extend(mark(mode, verdict, lists.0).map(|mark| ((Scope::Everybody, key), mark)))
            }
            _ => {
                let others = mark(MasqueradeMode::for_others(masquerade), verdict, lists.0);
                entries.extend(others.map(|mark| ((Scope::Everybody, key), mark)));
                let here = mark(MasqueradeMode::for_here(masquerade), here, lists.1);
                entries.extend(here.map(|mark| ((Scope::Here, key), mark)));
            }
        }
        singles.extend(frontend_singles(port, frontend));
    }
    // Only an endpoint on this node can meet itself through it, unless nobody says where it is.
    let meets_itself = |local: bool, known: bool| local || !known || settings.local_pods.is_empty();
    let endpoints = port.endpoints().into_iter().filter(|e| meets_itself(e.local, e.node.is_some()));
    singles.extend(endpoints.map(|endpoint| Single::Hairpin(endpoint.address)));
    (entries, singles)
}

pub(super) fn class_of(port: &ServicePort, endpoints: &[Endpoint]) -> Class {
    Class {
        endpoints: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
        affinity_seconds: port.affinity.map(|affinity| affinity.timeout_seconds),
    }
}

fn frontend_singles(port: &ServicePort, frontend: &Frontend) -> Vec<Single> {
    let key = frontend.key(port.protocol);
    match (frontend, &port.source_ranges) {
        (Frontend::ClusterIp { address, .. }, _) => vec![Single::ClusterIp(*address)],
        (Frontend::LoadBalancerIp { address, .. }, Some(SourceRanges { allowed, virtual_address_too })) => {
            let mut ranges = allowed.clone();
            if *virtual_address_too {
                ranges.push((*address).into());
            }
            // A set of intervals takes none inside another.
            let ranges = ipnet::IpNet::aggregate(&ranges);
            let mut singles = vec![Single::Restricted(key)];
            singles.extend(ranges.into_iter().map(|range| Single::Allowed(key, range)));
            singles
        }
        _ => Vec::new(),
    }
}
