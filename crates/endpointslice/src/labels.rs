//! The labels and annotations that mark slices and Endpoints, and who owns them. Not responsible for endpoints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::service;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
pub const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
pub const MIRRORING_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
pub const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";

pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Keys that a Service's own labels cannot set on its slices.
const RESERVED: [&str; 3] = [SERVICE_NAME, MANAGED_BY, HEADLESS];

pub type Labels = BTreeMap<String, String>;

/// What the slices of a Service are labelled with.
pub fn for_slices(service: &Service) -> Labels {
    let mut labels = inherited(&service.metadata);
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// What the mirrored slices of an Endpoints object are labelled with: also what it says of headlessness.
pub fn for_mirrors(endpoints: &ObjectMeta) -> Labels {
    let mut labels = endpoints.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MIRRORING_CONTROLLER.to_owned());
    labels
}

/// What the legacy Endpoints of a Service are labelled with.
pub fn for_endpoints(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(ENDPOINTS_MANAGED_BY.to_owned(), ENDPOINTS_CONTROLLER.to_owned());
    if service::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// Whether `metadata` carries `key: value`.
pub fn has(metadata: &ObjectMeta, key: &str, value: &str) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|found| found == value)
}

/// The reference by which `owner` controls what is made for it.
pub fn controller_of(owner: &ObjectMeta, api_version: &str, kind: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the object is controlled by the one with this uid.
pub fn is_controlled_by(metadata: &ObjectMeta, uid: Option<&String>) -> bool {
    let references = metadata.owner_references.as_deref().unwrap_or_default();
    references.iter().any(|reference| reference.controller == Some(true) && Some(&reference.uid) == uid)
}

/// RFC 3339 as kube-controller-manager writes it, with as many fractional digits as there are.
pub fn stamp(at: Timestamp) -> String {
    at.to_string()
}

fn inherited(metadata: &ObjectMeta) -> Labels {
    let mut labels = metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !RESERVED.contains(&key.as_str()));
    labels
}
