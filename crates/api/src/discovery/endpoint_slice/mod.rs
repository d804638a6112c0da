//! EndpointSlice: some of the addresses behind a Service.

use crate::resource::{ALL_VERBS, Resource, Scope, Strategy};

pub static RESOURCE: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    strategy: &EndpointSlice,
};

struct EndpointSlice;

impl Strategy for EndpointSlice {}
