//! ReplicaSet: so many replicas of a pod.

use serde_json::Value;

use crate::resource::{ALL_VERBS, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::copy;

pub static RESOURCE: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::scale(), Subresource::status("apps", "v1", "ReplicaSet")],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    strategy: &ReplicaSet,
};

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }
}
