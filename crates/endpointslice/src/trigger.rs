//! When the change happened that a write answers (annotation `endpoints.kubernetes.io/last-change-trigger-time`). Not
//! responsible for noticing deletions: they carry no time.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::jiff::Timestamp;

/// What has been seen of each Service so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TriggerTimes {
    services: BTreeMap<(String, String), Seen>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The oldest change since the last look at this Service: its creation, or a pod's readiness. `None` when nothing
    /// that carries a time has changed.
    pub fn look(&mut self, service: &Service, pods: &[&Pod]) -> Option<Timestamp> {
        let seen = self.services.entry(key(service)).or_default();
        let mut oldest: Option<Timestamp> = None;
        let mut changed = |at: Timestamp| oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));

        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if let Some(created) = created.filter(|created| seen.service.is_none_or(|seen| seen < *created)) {
            changed(created);
        }
        let mut now = BTreeMap::new();
        for pod in pods {
            let Some(at) = ready_since(pod) else { continue };
            let name = pod.metadata.name.clone().unwrap_or_default();
            if seen.pods.get(&name).is_none_or(|seen| *seen < at) {
                changed(at);
            }
            now.insert(name, at);
        }
        *seen = Seen { service: created.max(seen.service), pods: now };
        oldest
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, namespace: &str, name: &str) {
        self.services.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

fn key(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// When the pod became what it is now, ready or not.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}
