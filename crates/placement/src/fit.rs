//! Whether a node may have a pod: cordon, taints, nodeSelector, required node affinity. Not responsible for choosing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Worded as upstream words it.
    Refused(String),
}

pub fn judge(pod: &Pod, node: &Node) -> Verdict {
    let none = Vec::new();
    let spec = pod.spec.as_ref();
    let tolerations = spec.and_then(|spec| spec.tolerations.as_ref()).unwrap_or(&none);
    let node_spec = node.spec.as_ref();
    if node_spec.and_then(|spec| spec.unschedulable).unwrap_or(false) && !tolerates_cordon(tolerations) {
        return Verdict::Refused("node(s) were unschedulable".to_owned());
    }
    let taints = node_spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let binding = taints.iter().filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
    for taint in binding {
        if !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
            let value = taint.value.as_deref().unwrap_or_default();
            return Verdict::Refused(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
        }
    }
    if selects(pod, node) {
        Verdict::Fits
    } else {
        Verdict::Refused("node(s) didn't match Pod's node affinity/selector".to_owned())
    }
}

/// Whether the node is one that the pod's `nodeSelector` and required node affinity want.
pub fn selects(pod: &Pod, node: &Node) -> bool {
    let spec = pod.spec.as_ref();
    let labels = labels(node);
    let selector = spec.and_then(|spec| spec.node_selector.as_ref());
    let selected = selector.is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let affinity = spec.and_then(|spec| {
        let node = spec.affinity.as_ref()?.node_affinity.as_ref()?;
        node.required_during_scheduling_ignored_during_execution.as_ref()
    });
    selected && affinity.is_none_or(|wanted| wanted.node_selector_terms.iter().any(|term| satisfies(term, node)))
}

fn labels(node: &Node) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    node.metadata.labels.as_ref().unwrap_or(&NONE)
}

fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerations.iter().any(|toleration| tolerates(toleration, &cordon))
}

/// An empty effect or key (with Exists) stands for all.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (if key.is_empty() { exists } else { key == taint.key })
        && (exists || value == taint.value.as_deref().unwrap_or_default())
}

/// Terms are alternatives, requirements within one all hold; a term without any matches nothing.
fn satisfies(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.metadata.name.clone().unwrap_or_default())]);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| holds(wanted, labels(node)))
        && fields.iter().all(|wanted| holds(wanted, &name))
}

fn holds(wanted: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let value = labels.get(&wanted.key);
    let compared = || -> Option<std::cmp::Ordering> {
        let bound: i64 = values.first()?.parse().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&bound))
    };
    match wanted.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !value.is_some_and(|value| values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fits(pod: Value, node: Value) -> bool {
        let pod = serde_json::from_value(json!({ "spec": pod })).unwrap();
        judge(&pod, &serde_json::from_value(node).unwrap()) == Verdict::Fits
    }

    #[test]
    fn taints_need_tolerations() {
        let node = json!({ "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] } });
        let with = |toleration: Value| fits(json!({ "containers": [], "tolerations": [toleration] }), node.clone());
        assert!(!fits(json!({ "containers": [] }), node.clone()));
        assert!(with(json!({ "operator": "Exists" })));
        assert!(with(json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" })));
        assert!(with(json!({ "key": "k", "operator": "Equal", "value": "v" })));
        assert!(
            !with(json!({ "key": "k", "value": "w" }))
                && !with(json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }))
        );
        let soft = json!({ "spec": { "taints": [{ "key": "k", "effect": "PreferNoSchedule" }] } });
        assert!(fits(json!({ "containers": [] }), soft));
    }

    #[test]
    fn affinity_terms_are_alternatives() {
        let node = json!({ "metadata": { "name": "n", "labels": { "cpu": "8", "zone": "a" } } });
        let with = |terms: Value| {
            let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
            fits(json!({ "containers": [], "affinity": { "nodeAffinity": required } }), node.clone())
        };
        let needs =
            |key: &str, operator: &str, value: &str| json!({ "key": key, "operator": operator, "values": [value] });
        assert!(with(json!([{ "matchExpressions": [needs("zone", "In", "a"), needs("cpu", "Gt", "4")] }])));
        assert!(!with(json!([{ "matchExpressions": [needs("zone", "In", "a"), needs("cpu", "Lt", "4")] }])));
        assert!(with(
            json!([{ "matchExpressions": [needs("zone", "In", "b")] }, { "matchFields": [needs("metadata.name", "In", "n")] }])
        ));
        assert!(!with(json!([{}])));
    }
}
