//! Pod: the smallest thing that runs.

use serde_json::Value;

use crate::resource::{ALL_VERBS, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::copy;

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource { name: "binding", kind: ("", "v1", "Binding"), verbs: &["create"] },
        Subresource { name: "log", kind: ("", "v1", "Pod"), verbs: &["get"] },
        Subresource::status("", "v1", "Pod"),
    ],
    definition: "io.k8s.api.core.v1.Pod",
    strategy: &Pod,
};

struct Pod;

impl Strategy for Pod {
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }
}
