//! Node: a machine that runs pods.

use serde_json::Value;

use crate::resource::{ALL_VERBS, Context, Resource, Scope, Strategy, Subresource};
use crate::tree::copy;

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "Node")],
    definition: "io.k8s.api.core.v1.Node",
    strategy: &Node,
};

struct Node;

impl Strategy for Node {
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }
}
