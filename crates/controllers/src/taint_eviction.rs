//! Evicts pods from nodes whose NoExecute taints they don't tolerate, or no longer do. Not responsible for setting
//! taints (`node_lifecycle`), nor for pods whose Node is gone (`pod_gc`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use runtime::{Deletion, Key, Next, Note, Objects, Reconcile, Recorder, WriteError};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::scheduler::tolerates;

const NO_EXECUTE: &str = "NoExecute";
const REASON: &str = "TaintManagerEviction";

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    let marks = queue.clone();
    cluster.pods.cache().on_change(move |change| {
        if let Some(pod) = change.latest().filter(|pod| node_of(pod).is_some()) {
            marks.add(Key::of(&pod.metadata));
        }
    });
    let (pods, marks) = (cluster.pods.clone(), queue.clone());
    cluster.nodes.cache().on_change(move |change| {
        let taints = |node: &Node| no_execute(node).cloned().collect::<Vec<_>>();
        let Some(node) = change.latest() else { return };
        if change.old.as_deref().map(taints).unwrap_or_default()
            != change.new.as_deref().map(taints).unwrap_or_default()
        {
            let (all, name) = (pods.cache().all(), node.name_any());
            let here = all.iter().filter(|pod| node_of(pod) == Some(name.as_str()));
            here.for_each(|pod| marks.add(Key::of(&pod.metadata)));
        }
    });
    let evictions = Evictions {
        nodes: cluster.nodes.clone(),
        pods: cluster.pods.clone(),
        recorder: cluster.recorder.clone(),
        noticed: Mutex::default(),
    };
    cluster.drive("taint-eviction", evictions, queue, 4);
}

/// What NoExecute taints mean for a pod on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Stay,
    /// It goes when it has borne them for so long.
    GoAfter(Duration),
}

/// As upstream: an untolerated taint evicts at once, otherwise the shortest `tolerationSeconds` counts of the
/// tolerations that are needed.
pub fn plan<'t>(pod: &Pod, taints: impl IntoIterator<Item = &'t Taint>) -> Plan {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(needed) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Plan::GoAfter(Duration::ZERO);
        };
        shortest = shortest.into_iter().chain(needed.toleration_seconds).min();
    }
    match shortest {
        None => Plan::Stay,
        Some(seconds) => Plan::GoAfter(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
    }
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

struct Evictions {
    nodes: Objects<Node>,
    pods: Objects<Pod>,
    recorder: Recorder,
    /// Pods that bear taints for a time, by their uid, and since when.
    noticed: Mutex<HashMap<Key, (String, Instant)>>,
}

impl Reconcile for Evictions {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let pod = self.pods.cache().get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let found = pod.and_then(|pod| Some((self.nodes.cache().get(&Key::cluster(node_of(&pod)?))?, pod)));
        let Some((node, pod)) = found else {
            self.forget(key);
            return Ok(Next::Wait);
        };
        let Plan::GoAfter(patience) = plan(&pod, no_execute(&node)) else {
            if self.forget(key) {
                self.recorder.publish(Note::normal(&*pod, REASON, format!("Cancelling deletion of Pod {key}")));
            }
            return Ok(Next::Wait);
        };
        let left = patience.saturating_sub(self.since(key, &pod).elapsed());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        self.evict(key, &pod).await?;
        self.forget(key);
        Ok(Next::Wait)
    }
}

impl Evictions {
    fn since(&self, key: &Key, pod: &Pod) -> Instant {
        let uid = pod.uid().unwrap_or_default();
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let held = noticed.entry(key.clone()).or_insert_with(|| (uid.clone(), Instant::now()));
        if held.0 != uid {
            *held = (uid, Instant::now());
        }
        held.1
    }

    /// Tells whether the pod was to go.
    fn forget(&self, key: &Key) -> bool {
        self.noticed.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some()
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), WriteError> {
        self.recorder.publish(Note::normal(pod, REASON, format!("Marking for deletion Pod {key}")));
        match self.pods.patch_status(key, &disrupted(pod, Timestamp::now())).await {
            Err(error) if error.is_not_found() => return Ok(()),
            outcome => outcome.map(drop)?,
        }
        self.pods.delete(pod, Deletion::Background).await
    }
}

fn disrupted(pod: &Pod, now: Timestamp) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(tolerations: Value, keys: &[&str]) -> Plan {
        let pod: Pod =
            serde_json::from_value(json!({ "spec": { "containers": [], "tolerations": tolerations } })).unwrap();
        let taints = keys.iter().map(|key| json!({ "key": key, "effect": NO_EXECUTE })).collect::<Vec<_>>();
        let node: Node = serde_json::from_value(json!({ "spec": { "taints": taints } })).unwrap();
        plan(&pod, no_execute(&node))
    }

    #[test]
    fn the_shortest_needed_toleration_decides() {
        let for_ever = json!({ "key": "a", "operator": "Exists" });
        let minutes = json!({ "key": "b", "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": 300 });
        let moments = json!({ "key": "c", "operator": "Exists", "tolerationSeconds": -1 });
        let all = json!([for_ever, minutes, moments]);
        assert_eq!(after(all.clone(), &[]), Plan::Stay);
        assert_eq!(after(all.clone(), &["a"]), Plan::Stay);
        assert_eq!(after(all.clone(), &["a", "b"]), Plan::GoAfter(Duration::from_secs(300)));
        assert_eq!(after(all.clone(), &["b", "c"]), Plan::GoAfter(Duration::ZERO));
        assert_eq!(after(all, &["a", "d"]), Plan::GoAfter(Duration::ZERO), "one that isn't tolerated");
    }

    #[test]
    fn only_no_execute_evicts() {
        let node: Node =
            serde_json::from_value(json!({ "spec": { "taints": [{ "key": "a", "effect": "NoSchedule" }] } })).unwrap();
        assert_eq!(no_execute(&node).count(), 0);
    }
}
