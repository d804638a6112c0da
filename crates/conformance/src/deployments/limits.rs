//! What a rolling update promises while it runs: enough pods available, not too many asked for. Not responsible for the
//! state at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::side::Side;

/// For a scenario whose Deployment keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Once that many were available, never fewer.
    pub least_available: usize,
    /// Never more are asked for by all ReplicaSets together.
    pub most_wanted: u64,
}

#[derive(Default)]
struct Held {
    promises: BTreeMap<String, Promise>,
    reached: BTreeSet<String>,
    breaches: BTreeSet<String>,
    looks: usize,
}

#[derive(Default)]
pub struct Limits(Mutex<Held>);

impl Limits {
    pub fn promise(&self, namespace: &str, promise: Promise) {
        self.locked().promises.insert(namespace.to_owned(), promise);
    }

    /// Looks at a namespace in which an object of `resource` has changed.
    pub fn hold(&self, side: &Side, resource: &'static str, object: &Value) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let Some(promise) = self.locked().promises.get(namespace).copied() else { return };
        let objects = side.objects(resource, namespace);
        let mut held = self.locked();
        held.looks += 1;
        match resource {
            "replicasets" => {
                let wanted: u64 = objects.iter().filter_map(|set| set["spec"]["replicas"].as_u64()).sum();
                if wanted > promise.most_wanted {
                    let most = promise.most_wanted;
                    held.breaches.insert(format!("{namespace}: {wanted} pods wanted, at most {most} were promised"));
                }
            }
            "pods" => {
                let available = objects.iter().filter(|pod| is_available(pod)).count();
                if available >= promise.least_available {
                    held.reached.insert(namespace.to_owned());
                } else if held.reached.contains(namespace) {
                    let least = promise.least_available;
                    held.breaches.insert(format!("{namespace}: {available} available, {least} were promised"));
                }
            }
            _ => {}
        }
    }

    pub fn breaches(&self) -> Vec<String> {
        self.locked().breaches.iter().cloned().collect()
    }

    pub fn looks(&self) -> usize {
        self.locked().looks
    }

    fn locked(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_available(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}
