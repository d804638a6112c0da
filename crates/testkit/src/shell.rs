//! Pods that run this machine's own shell, which hostPath volumes bring in: the built-in image has none.

use serde_json::{Value, json};

const TOOLS: [&str; 4] = ["/usr", "/bin", "/lib", "/lib64"];

/// A container that runs a script; `rest` are further fields of it.
pub fn container(name: &str, script: &str, mounts: &[Value], rest: Value) -> Value {
    let tools = TOOLS.map(|path| json!({"name": volume(path), "mountPath": path, "readOnly": true}));
    let mut container = json!({"name": name, "image": "portolan.local/testserver:latest",
        "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", script, "sh"],
        "volumeMounts": ([&tools[..], mounts].concat())});
    for (field, value) in rest.as_object().into_iter().flatten() {
        container[field] = value.clone();
    }
    container
}

/// A pod of such containers; `rest` are further fields of its specification.
pub fn pod(name: &str, volumes: &[Value], rest: Value) -> Value {
    let tools = TOOLS.map(|path| json!({"name": volume(path), "hostPath": {"path": path}}));
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "volumes": ([&tools[..], volumes].concat())});
    for (field, value) in rest.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn volume(path: &str) -> String {
    format!("t{}", path.replace('/', "-"))
}
