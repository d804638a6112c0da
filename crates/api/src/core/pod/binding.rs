//! `pods/binding`: the scheduler's word that a Pod runs on a node. Not responsible for choosing one.

use serde_json::{Value, json};

use crate::field::{self, Path};
use crate::tree::{absent, child_map, child_mut, entries, list, next_generation, put, text};

/// Why a Pod can't be bound. `Invalid` is a 422; the others a 409, as upstream.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindingError {
    #[error("the Binding is invalid")]
    Invalid(Vec<field::Error>),
    #[error("pod {pod} is being deleted, cannot be assigned to a host")]
    Deleting { pod: String },
    #[error("pod {pod} is already assigned to node {}", field::quoted(node))]
    Bound { pod: String, node: String },
    #[error("pod {pod} has non-empty .spec.schedulingGates")]
    Gated { pod: String },
}

/// Assigns `pod` to the node that `binding` names, with the labels and annotations it brings.
pub fn apply(pod: &mut Value, binding: &Value, now: jiff::Timestamp) -> Result<(), BindingError> {
    let errors = validate(binding);
    if !errors.is_empty() {
        return Err(BindingError::Invalid(errors));
    }
    let name = text(&pod["metadata"]["name"]).to_owned();
    if !absent(&pod["metadata"]["deletionTimestamp"]) {
        return Err(BindingError::Deleting { pod: name });
    }
    let node = text(&pod["spec"]["nodeName"]).to_owned();
    if !node.is_empty() {
        return Err(BindingError::Bound { pod: name, node });
    }
    if !list(&pod["spec"]["schedulingGates"]).is_empty() {
        return Err(BindingError::Gated { pod: name });
    }
    let before = pod.clone();
    put(child_mut(pod, "spec"), "nodeName", text(&binding["target"]["name"]));
    put(child_mut(pod, "status"), "nominatedNodeName", Value::Null);
    for field in ["annotations", "labels"] {
        for (key, value) in entries(&binding["metadata"][field]) {
            child_map(child_mut(pod, "metadata"), field).insert(key.to_owned(), value.clone());
        }
    }
    set_scheduled(pod, now);
    next_generation(pod, &before, true);
    Ok(())
}

fn validate(binding: &Value) -> Vec<field::Error> {
    let (target, path) = (&binding["target"], Path::new("target"));
    let mut errors = Vec::new();
    if !matches!(text(&target["kind"]), "" | "Node") {
        errors.push(field::Error::not_supported(&path.child("kind"), target["kind"].clone(), &["Node", "<empty>"]));
    }
    if text(&target["name"]).is_empty() {
        errors.push(field::Error::required(&path.child("name"), ""));
    }
    errors
}

fn set_scheduled(pod: &mut Value, now: jiff::Timestamp) {
    let mut conditions = list(&pod["status"]["conditions"]).to_vec();
    let before = conditions.iter().position(|condition| text(&condition["type"]) == "PodScheduled");
    let unchanged = before.is_some_and(|i| text(&conditions[i]["status"]) == "True");
    if unchanged {
        return;
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now.to_string()});
    match before {
        Some(i) => conditions[i] = scheduled,
        None => conditions.push(scheduled),
    }
    *child_mut(child_mut(pod, "status"), "conditions") = conditions.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    #[test]
    fn a_pod_is_bound_once() {
        let binding = json!({"metadata": {"annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
        let mut pod = json!({"metadata": {"name": "p", "generation": 1}, "spec": {}, "status": {"phase": "Pending"}});
        assert_eq!(apply(&mut pod, &binding, NOW), Ok(()));
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["metadata"], json!({"name": "p", "generation": 2, "annotations": {"a": "b"}}));
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let again = apply(&mut pod, &binding, NOW).expect_err("bound");
        assert_eq!(again.to_string(), "pod p is already assigned to node \"n1\"");
    }

    #[test]
    fn refusals() {
        let to = |name: &str| json!({"target": {"name": name}});
        let cases = [
            (
                json!({"metadata": {"name": "p", "deletionTimestamp": "x"}}),
                "pod p is being deleted, cannot be assigned to a host",
            ),
            (
                json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
                "pod p has non-empty .spec.schedulingGates",
            ),
        ];
        for (mut pod, expected) in cases {
            assert_eq!(apply(&mut pod, &to("n"), NOW).expect_err("refused").to_string(), expected);
        }
        let bad = json!({"target": {"kind": "Pod"}});
        let found: Vec<String> = validate(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
                "target.name: Required value"
            ]
        );
    }
}
