//! Which ReplicaSet has the Deployment's template, and its place in the history. Not responsible for sizes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::owners;

pub const HASH: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of the Deployment that its ReplicaSets do not take over.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];
/// Characters of [`HISTORY`] that are kept, and of an object's name.
const LONGEST_HISTORY: usize = 2000;
const LONGEST_NAME: usize = 253;
/// Characters that make no words (apimachinery's safe encoding).
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The revision that an object is annotated with; 0 without one.
pub fn of(metadata: &ObjectMeta) -> i64 {
    metadata.annotations.as_ref().and_then(|all| all.get(REVISION)?.parse().ok()).unwrap_or(0)
}

/// The oldest set whose template is the Deployment's.
pub fn find_new<'a>(deployment: &Deployment, sets: impl Iterator<Item = &'a ReplicaSet>) -> Option<&'a ReplicaSet> {
    let wanted = bare(deployment.spec.as_ref().map(|spec| &spec.template));
    sets.filter(|set| bare(set.spec.as_ref().and_then(|spec| spec.template.as_ref())) == wanted)
        .min_by_key(|set| (set.creation_timestamp().map(|time| time.0), set.name_any()))
}

pub fn same_template(a: &ReplicaSet, b: &ReplicaSet) -> bool {
    let template = |set: &ReplicaSet| bare(set.spec.as_ref().and_then(|spec| spec.template.as_ref()));
    template(a) == template(b)
}

fn bare(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    if let Some(metadata) = &mut template.metadata {
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH);
        }
        metadata.creation_timestamp = None;
    }
    template
}

/// The set that this Deployment's template needs, of the given size.
pub fn new_set(deployment: &Deployment, revision: i64, replicas: i32, max: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut annotations = inherited(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED.to_owned(), super::plan::replicas(deployment).to_string());
    annotations.insert(MAX.to_owned(), max.to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            namespace: deployment.namespace(),
            name: Some(name(&deployment.name_any(), &hash)),
            labels: template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![owners::reference(deployment.meta(), "apps/v1", "Deployment")]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The Deployment's name, as far as there is room for it, and the hash.
fn name(deployment: &str, hash: &str) -> String {
    // Names are ASCII, so any place is a boundary.
    let room = deployment.len().min(LONGEST_NAME.saturating_sub(hash.len() + 1));
    format!("{}-{hash}", deployment.get(..room).unwrap_or(deployment))
}

/// Brings the new set's annotations up to date: the Deployment's own, and the revision, which moves up when an old
/// set becomes the new one again (`rollout undo`).
pub fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    let held = of(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.extend(inherited(deployment));
    if held < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if held > 0 {
            let history = annotations.entry(HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&held.to_string());
            while let Some(comma) = history.find(',').filter(|_| history.len() > LONGEST_HISTORY) {
                history.drain(..=comma);
            }
        }
    }
}

fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    annotations
}

/// FNV-1a over the template's JSON (whose keys are sorted) and the number of collisions so far.
fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = serde_json::to_string(template).unwrap_or_default();
    let bytes = text.bytes().chain(collisions.to_le_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(SAFE[usize::from(digit) % SAFE.len()])).collect()
}
