//! Binds pods to nodes: of those that fit, the one with the fewest pods of the same controller, then with the fewest of
//! all. Not responsible for affinity between pods (an Event says so to who asks for
//! it), preemption, or other schedulers' pods.

mod ledger;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use runtime::{Key, Next, Note, Objects, Reconcile, Recorder, WriteError};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::conditions::{is_terminal, pod_condition};
use ledger::{Carried, Ledger};
use placement::Verdict;
pub use placement::tolerates;

const NAME: &str = "default-scheduler";

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let (shared, marks) = (ledger.clone(), queue.clone());
    cluster.pods.cache().on_change(move |change| {
        let mut ledger = lock(&shared);
        let made_room = ledger.update(change.old.as_deref(), change.new.as_deref());
        if let Some(pod) = change.new.as_ref().filter(|pod| is_pending(pod)) {
            marks.add(Key::of(&pod.metadata));
        }
        if made_room {
            ledger.pending().for_each(|key| marks.add(key.clone()));
        }
    });
    let (shared, marks) = (ledger.clone(), queue.clone());
    cluster.nodes.cache().on_change(move |change| {
        let seen = |node: &Node| {
            let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone());
            (node.metadata.labels.clone(), node.spec.clone(), allocatable)
        };
        if change.old.as_deref().map(seen) != change.new.as_deref().map(seen) {
            lock(&shared).pending().for_each(|key| marks.add(key.clone()));
        }
    });
    let scheduler = Scheduler {
        pods: cluster.pods.clone(),
        nodes: cluster.nodes.clone(),
        recorder: cluster.recorder.clone(),
        ledger,
    };
    // One at a time: each choice counts all earlier ones.
    cluster.drive("scheduler", scheduler, queue, 1);
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a pod waits for this scheduler.
fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == NAME);
    let unbound = spec.node_name.as_deref().is_none_or(str::is_empty);
    unbound && ours && !gated && pod.metadata.deletion_timestamp.is_none() && !is_terminal(pod)
}

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Bind(String),
    Unschedulable(String),
}

/// How many pods a node has; a node with less is preferred. Pods of one controller are spread first, as the default
/// constraints of the API's PodTopologySpread do, so that one node's end isn't the end of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Pods of the same controller.
    pub siblings: usize,
    /// Pods of any.
    pub pods: usize,
}

/// Chooses among `nodes` by what each carries, and what its pods have taken of it.
pub fn plan(pod: &Pod, nodes: &[&Node], ledger: &Ledger) -> Plan {
    let (demand, nothing) = (placement::demand(pod), Carried::default());
    let mut reasons: Vec<(String, usize)> = Vec::new();
    let mut best: Option<(Load, String)> = None;
    for node in nodes {
        let name = node.name_any();
        let carried = ledger.on(&name).unwrap_or(&nothing);
        let refusals = match placement::judge(pod, node) {
            Verdict::Fits => placement::lacks(node, &carried.taken, &demand),
            Verdict::Refused(reason) => vec![reason],
        };
        if refusals.is_empty() {
            let load = Load { siblings: carried.siblings(pod), pods: carried.taken.pods() };
            let candidate = (load, name);
            best = Some(best.map_or(candidate.clone(), |best| best.min(candidate)));
        }
        for reason in refusals {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason, 1)),
            }
        }
    }
    if let Some((_, node)) = best {
        return Plan::Bind(node);
    }
    reasons.sort();
    let reasons: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let total = nodes.len();
    Plan::Unschedulable(match reasons.is_empty() {
        true => "no nodes available to schedule pods".to_owned(),
        false => format!("0/{total} nodes are available: {}.", reasons.join(", ")),
    })
}

struct Scheduler {
    pods: Objects<Pod>,
    nodes: Objects<Node>,
    recorder: Recorder,
    ledger: Arc<Mutex<Ledger>>,
}

impl Reconcile for Scheduler {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(pod) = self.pods.cache().get(key).filter(|pod| is_pending(pod)) else { return Ok(Next::Wait) };
        let nodes = self.nodes.cache().all();
        let nodes: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
        let plan = {
            let ledger = lock(&self.ledger);
            if ledger.is_assumed(&pod) {
                return Ok(Next::Wait);
            }
            plan(&pod, &nodes, &ledger)
        };
        match plan {
            Plan::Bind(node) => self.bind(key, &pod, node).await?,
            Plan::Unschedulable(message) => self.refuse(key, &pod, message).await?,
        }
        Ok(Next::Wait)
    }
}

impl Scheduler {
    async fn bind(&self, key: &Key, pod: &Pod, node: String) -> Result<(), WriteError> {
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.clone()),
                ..ObjectReference::default()
            },
        };
        let body = serde_json::to_vec(&binding).unwrap_or_default();
        match self.pods.post_subresource("binding", key, body).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        lock(&self.ledger).assume(pod, &node);
        let message = format!("Successfully assigned {key} to {node}");
        self.recorder.publish(Note::normal(pod, "Scheduled", message));
        let ignored = ignored(pod);
        if !ignored.is_empty() {
            let message = format!("the scheduler does not act on: {}", ignored.join(", "));
            self.recorder.publish(Note::warning(pod, "UnsupportedFields", message));
        }
        Ok(())
    }

    async fn refuse(&self, key: &Key, pod: &Pod, message: String) -> Result<(), WriteError> {
        self.recorder.publish(Note::warning(pod, "FailedScheduling", message.clone()));
        let held = pod_condition(pod, "PodScheduled");
        if held.is_some_and(|held| held.status == "False" && held.message.as_deref() == Some(message.as_str())) {
            return Ok(());
        }
        match self.pods.patch_status(key, &refusal(&message, Timestamp::now())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The set fields that would have a say in where the pod goes, and have none here.
fn ignored(pod: &Pod) -> Vec<&'static str> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let affinity = spec.affinity.as_ref();
    let node_affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let fields = [
        (affinity.is_some_and(|affinity| affinity.pod_affinity.is_some()), "spec.affinity.podAffinity"),
        (affinity.is_some_and(|affinity| affinity.pod_anti_affinity.is_some()), "spec.affinity.podAntiAffinity"),
        (
            node_affinity.is_some_and(|node| node.preferred_during_scheduling_ignored_during_execution.is_some()),
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        ),
        (spec.topology_spread_constraints.is_some(), "spec.topologySpreadConstraints"),
        (spec.resource_claims.is_some(), "spec.resourceClaims"),
    ];
    fields.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

fn refusal(message: &str, now: Timestamp) -> Value {
    json!({ "status": { "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
    }] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "disk": name } }, "spec": spec }))
            .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "d" }, "spec": spec })).unwrap()
    }

    /// Bound pods: on which node, made by whom.
    fn carrying(pods: &[(&str, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, (node, maker)) in pods.iter().enumerate() {
            let mut bound = made_by(pod(json!({ "containers": [], "nodeName": node })), maker);
            bound.metadata.uid = Some(format!("{number}"));
            ledger.update(None, Some(&bound));
        }
        ledger
    }

    fn made_by(mut pod: Pod, maker: &str) -> Pod {
        let owner = json!({ "apiVersion": "v1", "kind": "K", "name": maker, "uid": maker, "controller": true });
        pod.metadata.owner_references = serde_json::from_value(json!([owner])).unwrap();
        pod
    }

    #[test]
    fn chooses_the_emptiest_node_that_fits() {
        let (a, b) = (node("a", json!({})), node("b", json!({})));
        let plain = made_by(pod(json!({ "containers": [] })), "x");
        let others = [("a", "y"), ("a", "y"), ("a", "y"), ("b", "y")];
        assert_eq!(plan(&plain, &[&a, &b], &carrying(&others)), Plan::Bind("b".into()));
        let sibling = [("a", "y"), ("a", "y"), ("a", "y"), ("b", "x")];
        let bound = plan(&plain, &[&a, &b], &carrying(&sibling));
        assert_eq!(bound, Plan::Bind("a".into()), "pods of one controller are spread first");
        let picky = pod(json!({ "containers": [], "nodeSelector": { "disk": "a" } }));
        assert_eq!(plan(&picky, &[&a, &b], &carrying(&others)), Plan::Bind("a".into()));
    }

    #[test]
    fn says_why_no_node_fits() {
        let cordoned = node("a", json!({ "unschedulable": true }));
        let tainted = node("b", json!({ "taints": [{ "key": "gpu", "value": "x", "effect": "NoSchedule" }] }));
        let pod = pod(json!({ "containers": [] }));
        let refused = plan(&pod, &[&cordoned, &tainted], &Ledger::default());
        let message =
            "0/2 nodes are available: 1 node(s) had untolerated taint {gpu: x}, 1 node(s) were unschedulable.";
        assert_eq!(refused, Plan::Unschedulable(message.into()));
        assert_eq!(
            plan(&pod, &[], &Ledger::default()),
            Plan::Unschedulable("no nodes available to schedule pods".into())
        );
    }

    #[test]
    fn a_node_without_room_is_refused_and_says_what_is_missing() {
        let mut node = node("a", json!({}));
        node.status =
            serde_json::from_value(json!({ "allocatable": { "cpu": "1", "memory": "1Gi", "pods": "9" } })).unwrap();
        let asks = json!({ "requests": { "cpu": "600m", "memory": "1Mi" } });
        let pod = pod(json!({ "containers": [{ "name": "c", "resources": asks }] }));
        let mut ledger = Ledger::default();
        assert_eq!(plan(&pod, &[&node], &ledger), Plan::Bind("a".into()));
        let mut bound = pod.clone();
        bound.spec.as_mut().unwrap().node_name = Some("a".into());
        ledger.update(None, Some(&bound));
        let refused = plan(&pod, &[&node], &ledger);
        assert_eq!(refused, Plan::Unschedulable("0/1 nodes are available: 1 Insufficient cpu.".into()));
    }

    #[test]
    fn fields_without_a_say_are_named() {
        let spread = json!([{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }]);
        assert!(ignored(&pod(json!({ "containers": [] }))).is_empty());
        let named = ignored(&pod(json!({ "containers": [], "topologySpreadConstraints": spread })));
        assert_eq!(named, ["spec.topologySpreadConstraints"]);
    }

    #[test]
    fn only_unbound_pods_of_this_scheduler_wait_for_it() {
        assert!(is_pending(&pod(json!({ "containers": [], "schedulerName": NAME }))));
        for spec in [
            json!({ "containers": [], "nodeName": "a" }),
            json!({ "containers": [], "schedulerName": "mine" }),
            json!({ "containers": [], "schedulingGates": [{ "name": "g" }] }),
        ] {
            assert!(!is_pending(&pod(spec)));
        }
    }
}
