//! Slices that repeat hand-written Endpoints, for readers that know only slices. Not responsible for Services with a
//! selector.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use crate::labels::{
    self, LAST_APPLIED, LEADER, MANAGED_BY, MIRRORING_CONTROLLER, SERVICE_NAME, SKIP_MIRROR, TRIGGER_TIME,
};
use crate::pack::{Frame, Groups, Identity, pack};
use crate::service::{self, Family};
use crate::{Notice, SlicePlan, subsets};

/// Addresses of one subset that are mirrored.
pub const MAX_PER_SUBSET: usize = 1000;

/// Whether these Endpoints are mirrored: their Service exists without a selector, and nobody asked not to.
pub fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let leader = endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    let skipped = labels::has(&endpoints.metadata, SKIP_MIRROR, "true");
    !leader && !skipped && service.is_some_and(|service| service::selector(service).is_none())
}

/// Plans the mirrors of `endpoints`, of which `name` and namespace identify the Service. `slices` are any slices of
/// the namespace.
pub fn plan(
    namespace: &str,
    name: &str,
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let mut mine: Vec<&EndpointSlice> = slices
        .iter()
        .copied()
        .filter(|slice| slice.metadata.namespace.as_deref() == Some(namespace))
        .filter(|slice| labels::has(&slice.metadata, SERVICE_NAME, name))
        .filter(|slice| labels::has(&slice.metadata, MANAGED_BY, MIRRORING_CONTROLLER))
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .collect();
    mine.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let Some(endpoints) = endpoints.filter(|endpoints| is_mirrored(endpoints, service)) else {
        plan.delete.extend(mine.into_iter().cloned());
        return plan;
    };
    if endpoints.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let groups = groups(endpoints, &mut plan);
    let frame = frame(endpoints);
    mine.retain(|slice| {
        let kept = labels::is_controlled_by(&slice.metadata, endpoints.metadata.uid.as_ref())
            && Family::BOTH.iter().any(|family| family.name() == slice.address_type && groups.contains_key(family));
        if !kept {
            plan.delete.push((*slice).clone());
        }
        kept
    });
    for (family, groups) in groups {
        let existing: Vec<_> = mine.iter().copied().filter(|slice| slice.address_type == family.name()).collect();
        pack(&frame, family, groups, &existing, &mut plan);
    }
    plan
}

fn frame(endpoints: &Endpoints) -> Frame<'_> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != TRIGGER_TIME && key != LAST_APPLIED);
    Frame {
        owner: &endpoints.metadata,
        reference: labels::controller_of(&endpoints.metadata, "v1", "Endpoints"),
        labels: labels::for_mirrors(&endpoints.metadata),
        annotations,
        annotations_exact: true,
        trigger: None,
        max_endpoints: MAX_PER_SUBSET,
        capacity: None,
    }
}

/// Endpoints by family and ports. A family without any address has no entry, so no placeholder either.
fn groups(endpoints: &Endpoints, plan: &mut SlicePlan) -> BTreeMap<Family, Groups> {
    let mut families: BTreeMap<Family, Groups> = BTreeMap::new();
    for subset in subsets::canonical(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ready = subset.ready.iter().map(|address| (address, true));
        let not_ready = subset.not_ready.iter().map(|address| (address, false));
        let mut taken = 0_usize;
        let mut dropped = 0_usize;
        for (address, ready) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                plan.notices.push(Notice::InvalidAddress { address: address.ip.clone() });
                continue;
            };
            if taken == MAX_PER_SUBSET {
                dropped += 1;
                continue;
            }
            let endpoint = endpoint(address, ip, ready);
            let group = families.entry(Family::of(ip)).or_default().entry(subset.ports.clone()).or_default();
            group.entry(Identity::of(&endpoint)).or_insert(endpoint);
            taken += 1;
        }
        if dropped > 0 {
            plan.notices.push(Notice::TooManyAddresses { dropped });
        }
    }
    families
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
