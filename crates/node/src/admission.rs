//! Which pods the node rejects, as kubelet does: they fail, and nothing of them is started. Pure.
//!
//! Not responsible for pods that were admitted once: those stay, also when the node's labels change.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use placement::{Shortage, Taken};

use crate::pod::plan::EVICTED;
use crate::pod::{NodeVerdict, spec};
use crate::sysctl;

const OS: &str = "kubernetes.io/os";

/// Whether an agent has taken the pod on.
pub fn is_admitted(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Whether it outlives what presses the node (`system-cluster-critical` and above, as kubelet has it).
pub fn is_critical(pod: &Pod) -> bool {
    const SYSTEM_CRITICAL: i32 = 2_000_000_000;
    spec::spec(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL)
}

/// A pod that comes while a condition keeps new ones away: who sets `spec.nodeName` asks for no toleration.
pub fn under_pressure(condition: &str) -> NodeVerdict {
    rejected(EVICTED, &format!("The node had condition: [{condition}]. "))
}

/// What no node of ours runs.
pub fn by_fields(pod: &Pod) -> Option<NodeVerdict> {
    if let Some(name) = sysctl::forbidden(pod) {
        return Some(rejected("SysctlForbidden", &format!("forbidden sysctl: {name:?} not allowlisted")));
    }
    let os = spec::spec(pod).os.as_ref().filter(|os| os.name != "linux");
    os.map(|_| rejected("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

pub fn asks_for_labels(pod: &Pod) -> bool {
    let spec = spec::spec(pod);
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    spec.node_selector.as_ref().is_some_and(|selector| !selector.is_empty()) || affinity.is_some()
}

/// A pod that wants another node.
pub fn by_labels(pod: &Pod, node: &Node) -> Option<NodeVerdict> {
    if placement::selects(pod, node) {
        return None;
    }
    let selected = spec::spec(pod).node_selector.as_ref().and_then(|selector| selector.get(OS));
    let own = node.metadata.labels.as_ref().and_then(|labels| labels.get(OS));
    if selected.is_some() && selected != own {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(rejected("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    Some(rejected("NodeAffinity", message))
}

/// A pod for which the node has no room beside those that have `taken` of it.
pub fn by_room(pod: &Pod, taken: &Taken, allocatable: &BTreeMap<String, Quantity>) -> Option<NodeVerdict> {
    let demand = placement::demand(pod);
    if placement::ports_clash(taken, &demand) {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Some(rejected("NodePorts", message));
    }
    // Extended resources that a node doesn't have aren't its business.
    let known = |shortage: &Shortage| !shortage.resource.contains('/');
    let Shortage { resource, requested, used, capacity } =
        placement::shortages(allocatable, taken, &demand).into_iter().find(known)?;
    let reason = match resource.as_str() {
        "cpu" => "OutOfcpu",
        "memory" => "OutOfmemory",
        "pods" => "OutOfpods",
        "ephemeral-storage" => "OutOfephemeral-storage",
        _ => "UnexpectedAdmissionError",
    };
    let message = format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    Some(rejected(reason, &message))
}

fn rejected(reason: &'static str, message: &str) -> NodeVerdict {
    NodeVerdict { reason, message: format!("Pod was rejected: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(mut fields: Value) -> Pod {
        fields["containers"] = json!([{"name": "m", "ports": fields["ports"].take(),
            "resources": {"requests": fields["requests"].take()}}]);
        spec::testing::pod(fields)
    }

    fn reason(verdict: Option<NodeVerdict>) -> &'static str {
        verdict.map_or("", |verdict| verdict.reason)
    }

    #[test]
    fn another_system_and_other_labels_are_rejected() {
        assert_eq!(reason(by_fields(&pod(json!({"os": {"name": "windows"}})))), "PodOSNotSupported");
        assert_eq!(reason(by_fields(&pod(json!({"os": {"name": "linux"}})))), "");
        let labels = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/os": "linux", "zone": "a"}}});
        let node: Node = serde_json::from_value(labels).unwrap();
        let terms = |value: &str| json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]}]);
        let affinity = |value: &str| {
            let required =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms(value)}});
            json!({"affinity": {"nodeAffinity": required}})
        };
        for (fields, expected) in [
            (json!({"nodeSelector": {"zone": "a", "kubernetes.io/os": "linux"}}), ""),
            (json!({"nodeSelector": {"zone": "b"}}), "NodeAffinity"),
            (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), "PodOSSelectorNodeLabelDoesNotMatch"),
            (affinity("a"), ""),
            (affinity("b"), "NodeAffinity"),
        ] {
            let pod = pod(fields.clone());
            assert!(asks_for_labels(&pod));
            assert_eq!(reason(by_labels(&pod, &node)), expected, "{fields}");
        }
        assert!(!asks_for_labels(&pod(json!({}))));
    }

    #[test]
    fn what_others_have_taken_is_not_there() {
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")];
        let allocatable = allocatable.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
        let asks =
            |requests: Value| pod(json!({"requests": requests, "ports": [{"containerPort": 1, "hostPort": 80}]}));
        let mut taken = Taken::default();
        let room = |taken: &Taken, pod: &Pod| by_room(pod, taken, &allocatable);
        let two = asks(json!({"cpu": "1500m"}));
        assert_eq!(room(&taken, &two), None);
        assert_eq!(reason(room(&taken, &asks(json!({"example.com/gpu": "1"})))), "");
        taken.add(&placement::demand(&two));
        assert_eq!(reason(room(&taken, &two)), "NodePorts");
        let other = |requests: Value| pod(json!({"requests": requests}));
        let message =
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
        let refused = room(&taken, &other(json!({"cpu": "501m"}))).unwrap();
        assert_eq!((refused.reason, refused.message.as_str()), ("OutOfcpu", message));
        assert_eq!(reason(room(&taken, &other(json!({"memory": "2Gi"})))), "OutOfmemory");
        (0..2).for_each(|_| taken.add(&placement::demand(&other(json!({})))));
        assert_eq!(reason(room(&taken, &other(json!({})))), "OutOfpods");
    }
}
