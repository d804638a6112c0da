//! Endpoints: the addresses behind a Service, all in one object (deprecated since 1.33).

use crate::resource::{ALL_VERBS, Resource, Scope, Strategy};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.Endpoints",
    strategy: &Endpoints,
};

struct Endpoints;

impl Strategy for Endpoints {}
