//! Events as kubelet writes them: about a pod, one of its containers, or the node.
//!
//! Not responsible for what is worth an Event nor for posting them (`runtime::events`).

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use runtime::events::{Note, NoteKind, Recorder, recorder};
use tokio_util::sync::CancellationToken;

use crate::pod::PodKey;
use crate::pod::plan::Notice;

/// Where Events are handed in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// The handle, and the task that posts.
    pub fn new(
        client: Client,
        node_name: &str,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (recorder, publisher) = recorder(client, "kubelet");
        (Events { recorder }, publisher.on_host(node_name).run(stop))
    }

    /// About a pod, or one of its containers.
    pub fn pod(&self, pod: &PodKey, field_path: Option<String>, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            field_path,
            ..Default::default()
        };
        self.publish(about, warning, reason, message);
    }

    pub fn notice(&self, pod: &PodKey, notice: &Notice) {
        self.pod(pod, notice.field_path.clone(), notice.warning, notice.reason, notice.message.clone());
    }

    /// About the node.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            // As kubelet has it: it knows its name before its object.
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.publish(about, warning, reason, message);
    }

    fn publish(&self, about: ObjectReference, warning: bool, reason: &str, message: String) {
        let kind = if warning { NoteKind::Warning } else { NoteKind::Normal };
        self.recorder.publish(Note { about, kind, reason: reason.to_owned(), message });
    }
}
