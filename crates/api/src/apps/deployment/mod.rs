//! Deployment: replicas of a pod, renewed in steps.

use serde_json::Value;

use crate::resource::{ALL_VERBS, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::copy;

pub static RESOURCE: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::scale(), Subresource::status("apps", "v1", "Deployment")],
    definition: "io.k8s.api.apps.v1.Deployment",
    strategy: &Deployment,
};

struct Deployment;

impl Strategy for Deployment {
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }
}
