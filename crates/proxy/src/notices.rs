//! What a proxy tells by Events: about Services, and about the node it is on. Not responsible for finding any of it out.

use k8s_openapi::api::core::v1::ObjectReference;
use runtime::events::{Note, NoteKind, Recorder};
use service_model::{ServiceModel, ServiceName};

use crate::health_check_ports::Failure;
use crate::syncer::Complaint;

/// Something about the proxy that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// CamelCase, for machines.
    pub reason: &'static str,
    pub message: String,
}

/// A new configuration that can't be brought into force; the old one stays.
pub(crate) const REFUSED: &str = "ProxyConfigurationRefused";

pub(crate) fn about_service(recorder: &Recorder, complaint: &Complaint, model: &ServiceModel) {
    let about = service(&complaint.service, model);
    let reason = complaint.reason.to_owned();
    recorder.publish(Note { about, kind: NoteKind::Warning, reason, message: complaint.message.clone() });
}

/// As kube-proxy says it.
pub(crate) fn about_health_check(recorder: &Recorder, node: &str, failure: &Failure, model: &ServiceModel) {
    let Failure { service: name, at, error } = failure;
    let message = format!("node {node} failed to start healthcheck \"{name}\" on port {}: {error} ({at})", at.port());
    tracing::warn!(service = %name, %at, %error, "cannot listen for health checks, will try again");
    let (about, reason) = (service(name, model), "FailedToStartServiceHealthcheck".to_owned());
    recorder.publish(Note { about, kind: NoteKind::Warning, reason, message });
}

/// About the node, which Events know by its name alone.
pub(crate) fn about_node(recorder: &Recorder, node: &str, notice: &Notice) {
    let about = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    let (reason, message) = (notice.reason.to_owned(), notice.message.clone());
    recorder.publish(Note { about, kind: NoteKind::Warning, reason, message });
}

fn service(name: &ServiceName, model: &ServiceModel) -> ObjectReference {
    let service = model.view().service(name);
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(name.namespace().to_owned()),
        name: Some(name.name().to_owned()),
        uid: service.map(|service| service.metadata.uid.clone()),
        ..ObjectReference::default()
    }
}
