//! How endpoints are spread over slices, with as few writes as possible. Not responsible for which endpoints there are.
//!
//! Order of preference: keep, refresh in place, fill slices that are written anyway, fill the one unchanged slice that
//! ends closest to full, create.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::labels::{self, Labels, TRIGGER_TIME};
use crate::ports::{self, Port};
use crate::service::Family;
use crate::topology::Topology;
use crate::{Notice, SlicePlan, endpoints_of, hints};

/// What makes two endpoints the same one: addresses, hostname, and the target's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    addresses: Vec<String>,
    hostname: Option<String>,
    target: Option<(Option<String>, Option<String>)>,
}

impl Identity {
    pub fn of(endpoint: &Endpoint) -> Self {
        let target = endpoint.target_ref.as_ref();
        Self {
            addresses: endpoint.addresses.clone(),
            hostname: endpoint.hostname.clone().filter(|hostname| !hostname.is_empty()),
            target: target.map(|target| (target.namespace.clone(), target.name.clone())),
        }
    }
}

/// The endpoints wanted, by the ports they have in common. A group without endpoints is a placeholder.
pub type Groups = BTreeMap<Vec<Port>, BTreeMap<Identity, Endpoint>>;

/// What all slices of one owner have in common.
pub struct Frame<'a> {
    pub owner: &'a ObjectMeta,
    pub reference: OwnerReference,
    pub labels: Labels,
    /// Annotations that a slice must have, the trigger time aside.
    pub annotations: Labels,
    /// Whether other annotations are taken off.
    pub annotations_exact: bool,
    pub trigger: Option<Timestamp>,
    pub max_endpoints: usize,
    /// By whose capacity hints are shared out, instead of being part of the endpoints wanted.
    pub capacity: Option<&'a Topology>,
}

/// Slices of one family on their way from what is to what should be.
#[derive(Default)]
struct Changes {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    unchanged: Vec<EndpointSlice>,
    delete: Vec<EndpointSlice>,
}

/// Plans one family. `existing` are the owner's slices of this family that are not being deleted, in order of name.
pub fn pack(frame: &Frame<'_>, family: Family, mut groups: Groups, existing: &[&EndpointSlice], plan: &mut SlicePlan) {
    if groups.values().all(BTreeMap::is_empty) {
        groups = Groups::from([(Vec::new(), BTreeMap::new())]);
    } else {
        groups.retain(|_, endpoints| !endpoints.is_empty());
    }
    let mut by_ports: BTreeMap<Vec<Port>, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(ports::of_slice(slice.ports.as_deref())).or_default().push(slice);
    }
    let mut changes = Changes::default();
    for (ports, wanted) in groups {
        let mine = by_ports.remove(&ports).unwrap_or_default();
        pack_group(frame, family, &ports, wanted, &mine, &mut changes);
    }
    changes.delete.extend(by_ports.into_values().flatten().cloned());
    if let Some(topology) = frame.capacity {
        share_out(frame, topology, &mut changes, plan);
    }
    reuse(&mut changes);
    plan.create.extend(changes.create);
    plan.update.extend(changes.update);
    plan.delete.extend(changes.delete);
}

fn pack_group(
    frame: &Frame<'_>,
    family: Family,
    ports: &[Port],
    mut wanted: BTreeMap<Identity, Endpoint>,
    existing: &[&EndpointSlice],
    changes: &mut Changes,
) {
    let placeholder = wanted.is_empty();
    let first_update = changes.update.len();
    let mut unchanged = Vec::new();
    let mut kept_placeholder = false;
    for slice in existing {
        let kept = keep(slice, &mut wanted);
        if kept.is_empty() && !(placeholder && !kept_placeholder && endpoints_of(slice).is_empty()) {
            changes.delete.push((*slice).clone());
            continue;
        }
        kept_placeholder |= kept.is_empty();
        if frame.same(&kept, endpoints_of(slice)) && frame.holds(&slice.metadata) {
            unchanged.push((*slice).clone());
        } else {
            changes.update.push(EndpointSlice { endpoints: Some(kept), ..(*slice).clone() });
        }
    }
    let mut left: Vec<Endpoint> = wanted.into_values().rev().collect();
    let updates = &mut changes.update[first_update..];
    updates.sort_by_key(|slice| std::cmp::Reverse(endpoints_of(slice).len()));
    updates.iter_mut().for_each(|slice| fill(slice, &mut left, frame.max_endpoints));
    while !left.is_empty() || (placeholder && !kept_placeholder) {
        kept_placeholder = true;
        let room = |slice: &EndpointSlice| endpoints_of(slice).len() + left.len() <= frame.max_endpoints;
        let candidates = unchanged.iter().enumerate().filter(|(_, slice)| !placeholder && room(slice));
        let fullest = candidates.max_by_key(|(index, slice)| (endpoints_of(slice).len(), std::cmp::Reverse(*index)));
        match fullest.map(|(index, _)| index) {
            Some(index) => {
                let mut slice = unchanged.swap_remove(index);
                fill(&mut slice, &mut left, frame.max_endpoints);
                changes.update.push(slice);
            }
            None => {
                let mut slice = frame.slice(family, ports);
                fill(&mut slice, &mut left, frame.max_endpoints);
                changes.create.push(slice);
            }
        }
    }
    changes.update[first_update..].iter_mut().for_each(|slice| frame.mark(&mut slice.metadata));
    changes.unchanged.extend(unchanged);
}

/// Hints by capacity depend on all slices of the family, and leave alone what is right already.
fn share_out(frame: &Frame<'_>, topology: &Topology, changes: &mut Changes, plan: &mut SlicePlan) {
    let mut written: Vec<EndpointSlice> = changes.create.drain(..).chain(changes.update.drain(..)).collect();
    let outcome = hints::share_out(&mut written, &mut changes.unchanged, topology);
    for slice in written {
        let list = if slice.metadata.name.is_some() { &mut changes.update } else { &mut changes.create };
        list.push(slice);
    }
    changes.update.iter_mut().for_each(|slice| frame.mark(&mut slice.metadata));
    if let Err(disabled) = outcome {
        plan.notices.push(Notice::HintsDisabled(disabled));
    }
}

/// The slice's endpoints that are still wanted, as wanted now; they are taken out of `wanted`.
fn keep(slice: &EndpointSlice, wanted: &mut BTreeMap<Identity, Endpoint>) -> Vec<Endpoint> {
    endpoints_of(slice).iter().filter_map(|endpoint| wanted.remove(&Identity::of(endpoint))).collect()
}

fn fill(slice: &mut EndpointSlice, left: &mut Vec<Endpoint>, max: usize) {
    let endpoints = slice.endpoints.get_or_insert_default();
    let room = max.saturating_sub(endpoints.len()).min(left.len());
    // `left` is in reverse order.
    endpoints.extend(left.drain(left.len() - room..).rev());
}

/// A slice that goes and one that comes are one update.
fn reuse(changes: &mut Changes) {
    while !changes.create.is_empty() && !changes.delete.is_empty() {
        let (new, old) = (changes.create.remove(0), changes.delete.remove(0));
        let mut annotations = old.metadata.annotations.clone().unwrap_or_default();
        annotations.remove(TRIGGER_TIME);
        annotations.extend(new.metadata.annotations.unwrap_or_default());
        let metadata = ObjectMeta {
            labels: new.metadata.labels,
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..old.metadata
        };
        changes.update.push(EndpointSlice { metadata, ..new });
    }
}

impl Frame<'_> {
    /// Whether the endpoints wanted are those held, hints aside where they are shared out later.
    fn same(&self, wanted: &[Endpoint], held: &[Endpoint]) -> bool {
        if self.capacity.is_none() {
            return wanted == held;
        }
        let bare = |endpoint: &Endpoint| Endpoint { hints: None, ..endpoint.clone() };
        wanted.len() == held.len() && wanted.iter().zip(held).all(|(wanted, held)| bare(wanted) == bare(held))
    }

    /// Whether a slice has the labels and annotations it should have.
    fn holds(&self, metadata: &ObjectMeta) -> bool {
        let empty = Labels::new();
        let annotations = metadata.annotations.as_ref().unwrap_or(&empty);
        let wanted = self.annotations.iter().all(|(key, value)| annotations.get(key) == Some(value));
        let extra = self.annotations_exact
            && annotations.keys().any(|key| key != TRIGGER_TIME && !self.annotations.contains_key(key));
        metadata.labels.as_ref().unwrap_or(&empty) == &self.labels && wanted && !extra
    }

    fn mark(&self, metadata: &mut ObjectMeta) {
        metadata.labels = Some(self.labels.clone());
        let mut annotations = metadata.annotations.take().unwrap_or_default();
        if self.annotations_exact {
            annotations.clear();
        }
        annotations.remove(TRIGGER_TIME);
        annotations.extend(self.annotations.clone());
        annotations.extend(self.trigger.map(|at| (TRIGGER_TIME.to_owned(), labels::stamp(at))));
        metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    }

    fn slice(&self, family: Family, ports: &[Port]) -> EndpointSlice {
        let mut metadata = ObjectMeta {
            namespace: self.owner.namespace.clone(),
            generate_name: Some(self.prefix()),
            owner_references: Some(vec![self.reference.clone()]),
            ..ObjectMeta::default()
        };
        self.mark(&mut metadata);
        let ports: Vec<EndpointPort> = ports.iter().map(Port::to_slice).collect();
        EndpointSlice {
            metadata,
            address_type: family.name().to_owned(),
            endpoints: Some(Vec::new()),
            ports: Some(ports),
        }
    }

    /// `<owner>-`, or the bare name where the dash would leave no valid prefix (DNS-1123 subdomain, 253 characters).
    fn prefix(&self) -> String {
        let name = self.owner.name.as_deref().unwrap_or_default();
        if name.len() < 253 { format!("{name}-") } else { name.to_owned() }
    }
}
