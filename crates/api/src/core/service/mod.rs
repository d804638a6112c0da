//! Service: one name and address for many pods.

use serde_json::Value;

use crate::resource::{ALL_VERBS, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::copy;

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "Service")],
    definition: "io.k8s.api.core.v1.Service",
    strategy: &Service,
};

struct Service;

impl Strategy for Service {
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }
}
