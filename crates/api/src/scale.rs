//! The `scale` subresource: an autoscaling/v1 Scale out of an object that has replicas, and back.

use serde_json::{Value, json};

use crate::field::{self, Path};
use crate::labels;
use crate::tree::{child_mut, copy, int, map_mut};

/// The Scale of a Deployment or ReplicaSet.
pub fn from_object(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        copy(&mut metadata, &object["metadata"], field);
    }
    // In a Scale's spec, none is left out.
    let replicas = int(&object["spec"]["replicas"]);
    let spec = if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) };
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": spec,
        "status": {
            "replicas": int(&object["status"]["replicas"]),
            "selector": labels::selector_text(&object["spec"]["selector"]),
        },
    })
}

/// Gives the object as many replicas as the Scale says.
pub fn apply(object: &mut Value, scale: &Value) {
    map_mut(child_mut(object, "spec")).insert("replicas".to_owned(), int(&scale["spec"]["replicas"]).into());
}

/// Mistakes in a Scale, metadata aside.
pub fn validate(scale: &Value) -> Vec<field::Error> {
    let replicas = int(&scale["spec"]["replicas"]);
    if replicas >= 0 {
        return Vec::new();
    }
    let path = Path::new("spec").child("replicas");
    vec![field::Error::invalid(&path, replicas, "must be greater than or equal to 0")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"}}}, "status": {"replicas": 2},
        });
        let mut scale = from_object(&object);
        assert_eq!(
            scale,
            json!({
                "apiVersion": "autoscaling/v1", "kind": "Scale",
                "metadata": {"name": "web", "namespace": "default", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "a=1,b=2"},
            })
        );
        scale["spec"]["replicas"] = json!(0);
        apply(&mut object, &scale);
        assert_eq!(object["spec"]["replicas"], 0);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(
            validate(&scale)[0].to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
