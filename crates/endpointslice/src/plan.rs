//! The slices of a Service with a selector. Not responsible for Services whose endpoints are written by hand
//! (`mirror`) or for the legacy kind (`legacy`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::hints::{self, Distribution};
use crate::labels::{self, CONTROLLER, MANAGED_BY, SERVICE_NAME};
use crate::pack::{Frame, Groups, Identity, pack};
use crate::pods::{self, Outcome};
use crate::ports;
use crate::service::{self, Family};
use crate::topology::Topology;
use crate::{Notice, Options, SlicePlan};

/// Plans the slices of `service`. `pods` are candidates of its namespace (those that it does not select are skipped),
/// `slices` any slices of its namespace.
pub fn plan(
    service: &Service,
    pods: &[&Pod],
    topology: &Topology,
    slices: &[&EndpointSlice],
    options: &Options,
) -> SlicePlan {
    let mut plan = SlicePlan::default();
    if service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let mut mine = managed(service, slices);
    let families = if service::wants_endpoints(service) { service::families(service) } else { Vec::new() };
    mine.retain(|slice| {
        let ours = labels::is_controlled_by(&slice.metadata, service.metadata.uid.as_ref())
            && families.iter().any(|family| family.name() == slice.address_type);
        if !ours {
            plan.delete.push((*slice).clone());
        }
        ours
    });
    let selected: Vec<&Pod> = pods.iter().copied().filter(|pod| service::selects(service, &pod.metadata)).collect();
    let frame = Frame {
        owner: &service.metadata,
        reference: labels::controller_of(&service.metadata, "v1", "Service"),
        labels: labels::for_slices(service),
        annotations: labels::Labels::new(),
        annotations_exact: false,
        trigger: options.trigger,
        max_endpoints: options.max_endpoints.clamp(1, 1000),
        capacity: Some(topology).filter(|_| hints::distribution(service) == Distribution::Auto),
    };
    for family in families {
        let groups = groups(service, &selected, family, topology, &mut plan);
        let existing: Vec<&EndpointSlice> =
            mine.iter().copied().filter(|slice| slice.address_type == family.name()).collect();
        pack(&frame, family, groups, &existing, &mut plan);
    }
    tidy(&mut plan);
    plan
}

/// The slices that this controller keeps for a Service of this name, whoever owns them, in order of name.
fn managed<'a>(service: &Service, slices: &[&'a EndpointSlice]) -> Vec<&'a EndpointSlice> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut mine: Vec<_> = slices
        .iter()
        .copied()
        .filter(|slice| slice.metadata.namespace == service.metadata.namespace)
        .filter(|slice| labels::has(&slice.metadata, SERVICE_NAME, name))
        .filter(|slice| labels::has(&slice.metadata, MANAGED_BY, CONTROLLER))
        .filter(|slice| slice.metadata.deletion_timestamp.is_none())
        .collect();
    mine.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    mine
}

/// The endpoints of one family by the ports that they have in common, with their hints.
fn groups(service: &Service, pods: &[&Pod], family: Family, topology: &Topology, plan: &mut SlicePlan) -> Groups {
    let mut groups = Groups::new();
    for pod in pods {
        match pods::endpoint(service, pod, family, topology) {
            Outcome::Endpoint(endpoint) => {
                let ports = ports::resolve(service, pod, &mut plan.notices);
                groups.entry(ports).or_default().insert(Identity::of(&endpoint), *endpoint);
            }
            Outcome::UnknownNode(node) => plan.unknown_nodes.push(node),
            Outcome::None => {}
        }
    }
    let distribution = hints::distribution(service);
    let all = groups.values_mut().flat_map(|group| group.values_mut());
    all.for_each(|endpoint| hints::keep_close(distribution, endpoint));
    groups
}

/// Both families tell the same things about the same pods.
fn tidy(plan: &mut SlicePlan) {
    let notices: BTreeSet<Notice> = plan.notices.drain(..).collect();
    plan.notices.extend(notices);
    plan.unknown_nodes.sort();
    plan.unknown_nodes.dedup();
}
