//! ServiceAccount: a name for programs. Its tokens are made elsewhere.

use crate::resource::{ALL_VERBS, Resource, Scope, Strategy};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.ServiceAccount",
    strategy: &ServiceAccount,
};

struct ServiceAccount;

impl Strategy for ServiceAccount {}
