//! Notices nodes that have gone silent: conditions, taints, and pods that must not receive traffic. Not responsible
//! for evicting pods (`taint_eviction`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use runtime::{Key, Next, Note, Objects, Reconcile, Recorder, WriteError};
use serde_json::{Value, json};

use crate::Config;
use crate::cluster::{Cluster, mark_self};
use crate::conditions;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Where no more pods are sent: the conditions, when they are true, and their taints.
const PRESSURES: [(&str, &str); 3] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];
/// Conditions that a silent node can no longer vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    mark_self(&cluster.nodes, &queue);
    let marks = queue.clone();
    cluster.leases.cache().on_change(move |change| {
        if let Some(lease) = change.latest() {
            marks.add(Key::cluster(lease.name_any()));
        }
    });
    let nodes = Nodes {
        nodes: cluster.nodes.clone(),
        leases: cluster.leases.clone(),
        pods: cluster.pods.clone(),
        recorder: cluster.recorder.clone(),
        config: cluster.config.clone(),
        heard: Mutex::default(),
    };
    cluster.drive("node-lifecycle", nodes, queue, 4);
}

/// What a node's silence or state asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The node with other conditions.
    pub status: Option<Node>,
    /// The node's taints, where they change.
    pub taints: Option<Vec<Taint>>,
    /// Whether its pods no longer count as ready.
    pub lost: bool,
}

/// Plans for one node that has been silent for `silent`.
pub fn plan(node: &Node, silent: bool, now: Timestamp) -> Plan {
    let mut node_now = node.clone();
    let mut plan = Plan::default();
    if silent && make_unknown(&mut node_now, now) {
        plan.status = Some(node_now.clone());
    }
    plan.lost = silent;
    let held = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = taints(&node_now, &held, now);
    if wanted != held {
        plan.taints = Some(wanted);
    }
    plan
}

/// Sets what a silent node vouched for to Unknown. Tells whether anything changed.
fn make_unknown(node: &mut Node, now: Timestamp) -> bool {
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in VOUCHED {
        let unknown = |heartbeat: Option<Time>, reason: &str, message: &str| NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: heartbeat,
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(held) if held.status == "Unknown" => continue,
            Some(held) => {
                let heartbeat = held.last_heartbeat_time.clone();
                *held = unknown(heartbeat, "NodeStatusUnknown", "Kubelet stopped posting node status.");
            }
            None => {
                conditions.push(unknown(None, "NodeStatusNeverUpdated", "Kubelet never posted node status."));
            }
        }
        changed = true;
    }
    changed
}

/// The taints that conditions and cordon ask for, others untouched; those already there keep their time.
fn taints(node: &Node, held: &[Taint], now: Timestamp) -> Vec<Taint> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let status = |kind: &str| conditions.iter().find(|held| held.type_ == kind).map(|held| held.status.as_str());
    let mut wanted: Vec<(&str, &str)> = match status("Ready") {
        Some("True") => Vec::new(),
        Some("Unknown") => vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        None => vec![(NOT_READY, "NoSchedule")],
    };
    let pressed = PRESSURES.iter().filter(|(condition, _)| status(condition) == Some("True"));
    wanted.extend(pressed.map(|(_, taint)| (*taint, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let pressures = PRESSURES.iter().map(|(_, taint)| *taint);
    let ours: Vec<&str> = [NOT_READY, UNREACHABLE, UNSCHEDULABLE].into_iter().chain(pressures).collect();
    let ours = |taint: &Taint| ours.contains(&taint.key.as_str());
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = held.iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(Time(now)).filter(|_| key != UNSCHEDULABLE);
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added });
        }
    }
    taints
}

/// What a node last said, and when we heard it by our own clock: nodes' clocks are not compared with ours.
#[derive(Clone, Debug, PartialEq)]
struct Heard {
    said: (Option<Timestamp>, Option<Timestamp>),
    at: Instant,
}

struct Nodes {
    nodes: Objects<Node>,
    leases: Objects<Lease>,
    pods: Objects<Pod>,
    recorder: Recorder,
    config: Arc<Config>,
    heard: Mutex<HashMap<String, Heard>>,
}

impl Reconcile for Nodes {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(node) = self.nodes.cache().get(key) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(Next::Wait);
        };
        let silence = self.silence(&node);
        let left = self.config.node_grace.saturating_sub(silence);
        let plan = plan(&node, left.is_zero(), Timestamp::now());
        if let Some(unknown) = &plan.status {
            let message = format!("Node {} status is now: NodeNotReady", key.name);
            self.recorder.publish(Note::normal(&*node, "NodeNotReady", message));
            self.nodes.replace_subresource("status", unknown).await?;
            // The taints follow from what has just been written.
            return Ok(Next::After(Duration::ZERO));
        }
        if let Some(taints) = &plan.taints {
            let metadata = json!({ "uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version });
            self.nodes.patch(key, &json!({ "metadata": metadata, "spec": { "taints": taints } })).await?;
        }
        if plan.lost {
            self.mark_pods(&key.name).await?;
            return Ok(Next::Wait);
        }
        Ok(Next::After(left))
    }
}

impl Nodes {
    /// How long ago the node last said something new.
    fn silence(&self, node: &Node) -> Duration {
        let name = node.name_any();
        let lease = self.leases.cache().all().into_iter().find(|lease| lease.name_any() == name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        let beat = ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
        let (said, now) = ((renewed, beat), Instant::now());
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let last = heard.entry(name).or_insert_with(|| Heard { said, at: now });
        if last.said != said {
            *last = Heard { said, at: now };
        }
        now.duration_since(last.at)
    }

    async fn mark_pods(&self, node: &str) -> Result<(), WriteError> {
        let here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        for pod in self.pods.cache().all().iter().filter(|pod| here(pod) && conditions::is_ready(pod)) {
            let patch = not_ready(Timestamp::now());
            match self.pods.patch_status(&Key::of(&pod.metadata), &patch).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn not_ready(now: Timestamp) -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": Time(now) }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, spec: Value) -> Node {
        let conditions: Vec<Value> = ready.iter().map(|status| json!({ "type": "Ready", "status": status })).collect();
        serde_json::from_value(
            json!({ "metadata": { "name": "n" }, "spec": spec, "status": { "conditions": conditions } }),
        )
        .unwrap()
    }

    fn keys(plan: &Plan) -> Vec<(String, String)> {
        plan.taints.clone().unwrap_or_default().into_iter().map(|taint| (taint.key, taint.effect)).collect()
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_unreachable_and_that_settles() {
        let first = plan(&node(Some("True"), json!({})), true, Timestamp::UNIX_EPOCH);
        let mut lost = first.status.clone().unwrap();
        let conditions = lost.status.as_ref().unwrap().conditions.as_ref().unwrap();
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions.len(), VOUCHED.len());
        assert_eq!(keys(&first), [(UNREACHABLE.into(), "NoSchedule".into()), (UNREACHABLE.into(), "NoExecute".into())]);
        lost.spec.as_mut().unwrap().taints = first.taints;
        assert_eq!(plan(&lost, true, Timestamp::now()), Plan { lost: true, ..Plan::default() });
    }

    #[test]
    fn readiness_and_cordon_decide_taints_and_others_stay() {
        let other = json!({ "key": "gpu", "effect": "NoSchedule" });
        let tainted = json!({ "taints": [other, { "key": NOT_READY, "effect": "NoSchedule" }] });
        let back = plan(&node(Some("True"), tainted), false, Timestamp::UNIX_EPOCH);
        assert_eq!(keys(&back), [("gpu".into(), "NoSchedule".into())]);
        let new = plan(&node(None, json!({})), false, Timestamp::UNIX_EPOCH);
        assert_eq!(keys(&new), [(NOT_READY.into(), "NoSchedule".into())]);
        let cordoned = plan(&node(Some("True"), json!({ "unschedulable": true })), false, Timestamp::UNIX_EPOCH);
        assert_eq!(keys(&cordoned), [(UNSCHEDULABLE.into(), "NoSchedule".into())]);
        assert_eq!(plan(&node(Some("True"), json!({})), false, Timestamp::UNIX_EPOCH), Plan::default());
    }

    #[test]
    fn a_short_disk_keeps_pods_away_until_it_is_none() {
        let mut short = node(Some("True"), json!({}));
        let pressure =
            NodeCondition { type_: "DiskPressure".into(), status: "True".into(), ..NodeCondition::default() };
        short.status.get_or_insert_default().conditions.get_or_insert_default().push(pressure);
        let tainted = plan(&short, false, Timestamp::UNIX_EPOCH);
        assert_eq!(keys(&tainted), [("node.kubernetes.io/disk-pressure".into(), "NoSchedule".into())]);
        let taints = json!({ "taints": tainted.taints });
        assert_eq!(plan(&node(Some("True"), taints), false, Timestamp::UNIX_EPOCH).taints, Some(Vec::new()));
    }
}
