//! What a Pod, or the template of one, has when its author says nothing.

use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::tree::{
    absent, child_map, child_mut, elements_mut, entries, fill, fill_absent, flag, has_key, int, map_mut, text, unset,
};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const FILE_MODE: i64 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// A Pod: what its template has, and what only shows in Pods themselves.
pub(super) fn apply(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    apply_to_spec(spec);
    for list_name in ["containers", "initContainers"] {
        for container in elements_mut(spec, list_name) {
            request_limits(container);
        }
    }
    fill_absent(spec, "enableServiceLinks", true);
}

/// A pod's spec, also inside a Deployment or ReplicaSet.
pub(crate) fn apply_to_spec(spec: &mut Value) {
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    child_map(spec, "securityContext");
    fill_absent(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    // Either name of the account stands for both.
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        let account = text(&spec[from]).to_owned();
        if !account.is_empty() {
            fill(spec, to, account);
        }
    }
    for volume in elements_mut(spec, "volumes") {
        default_volume(volume);
    }
    let host_network = flag(&spec["hostNetwork"]);
    for list_name in CONTAINERS {
        for container in elements_mut(spec, list_name) {
            default_container(container, host_network && list_name != "ephemeralContainers");
        }
    }
}

fn default_container(container: &mut Value, host_network: bool) {
    let policy = if is_latest(text(&container["image"])) { "Always" } else { "IfNotPresent" };
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    child_map(container, "resources");
    for kind in ["limits", "requests"] {
        round_up(child_mut(container, "resources"), kind);
    }
    for port in elements_mut(container, "ports") {
        fill(port, "protocol", "TCP");
        if host_network {
            let number = int(&port["containerPort"]);
            if number != 0 {
                fill(port, "hostPort", number);
            }
        }
    }
    for variable in elements_mut(container, "env") {
        if let Some(reference) = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            fill(reference, "apiVersion", "v1");
        }
    }
    for name in PROBES {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook)) {
            default_handler(hook);
        }
    }
}

/// No resource is counted in less than thousandths.
fn round_up(resources: &mut Value, kind: &str) {
    for amount in resources.get_mut(kind).and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        let exact: Option<Quantity> = text(amount).parse().ok();
        if let Some(exact) = exact.filter(|exact| !exact.is_whole_milli()) {
            *amount = format!("{}m", exact.milli()).into();
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        fill(probe, field, value);
    }
    default_handler(probe);
}

fn default_handler(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet").filter(|http| http.is_object()) {
        fill(http, "path", "/");
        fill(http, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        fill_absent(grpc, "service", "");
    }
}

fn default_volume(volume: &mut Value) {
    let sourceless = entries(volume).all(|(field, value)| field == "name" || absent(value));
    if sourceless && volume.is_object() {
        map_mut(volume).insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            fill_absent(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(image) = volume.get_mut("image").filter(|source| source.is_object()) {
        let policy = if is_latest(text(&image["reference"])) { "Always" } else { "IfNotPresent" };
        fill(image, "pullPolicy", policy);
    }
    if let Some(host_path) = volume.get_mut("hostPath").filter(|source| source.is_object()) {
        fill_absent(host_path, "type", "");
    }
    if let Some(api) = volume.get_mut("downwardAPI").filter(|source| source.is_object()) {
        default_field_refs(api);
    }
    if let Some(projected) = volume.get_mut("projected").filter(|source| source.is_object()) {
        for source in elements_mut(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
                fill_absent(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(api) = source.get_mut("downwardAPI").filter(|source| source.is_object()) {
                default_field_refs(api);
            }
        }
    }
}

fn default_field_refs(source: &mut Value) {
    for item in elements_mut(source, "items") {
        if let Some(reference) = item.get_mut("fieldRef").filter(|reference| reference.is_object()) {
            fill(reference, "apiVersion", "v1");
        }
    }
}

/// What is limited and not asked for is asked for as much as it is limited to. Only in Pods, not in templates.
fn request_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().filter(|limits| !limits.is_empty()).cloned() else {
        return;
    };
    let resources = child_mut(container, "resources");
    for (name, amount) in limits {
        if !has_key(&resources["requests"], &name) {
            child_map(resources, "requests").insert(name, amount);
        }
    }
}

/// Whether an image reference means a tag that moves: `latest`, said or meant.
fn is_latest(image: &str) -> bool {
    if image.contains('@') || image.contains(char::is_whitespace) {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None => !unset(&image.into()),
        Some((_, tag)) => tag == "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_all_that_clients_expect() {
        let mut pod = json!({"spec": {"containers": [{
            "name": "c", "image": "web", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
            "readinessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        }], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]}});
        apply(&mut pod);
        let expected = json!({"spec": {
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "containers": [{
                "name": "c", "image": "web", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "readinessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
        }});
        assert_eq!(pod, expected);
        let once = pod.clone();
        apply(&mut pod);
        assert_eq!(pod, once, "defaulting is idempotent");
    }

    #[test]
    fn images_that_move_are_pulled_always() {
        let cases = [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1.2", "IfNotPresent"),
            ("registry:5000/web", "Always"),
            ("registry:5000/web:1", "IfNotPresent"),
            ("web@sha256:00", "IfNotPresent"),
            ("web:latest@sha256:00", "IfNotPresent"),
        ];
        for (image, expected) in cases {
            let mut container = json!({"image": image});
            default_container(&mut container, false);
            assert_eq!(container["imagePullPolicy"], expected, "{image}");
        }
    }

    #[test]
    fn templates_keep_their_limits_apart_and_host_ports_follow() {
        let mut spec = json!({"hostNetwork": true, "serviceAccount": "a",
            "containers": [{"resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]});
        apply_to_spec(&mut spec);
        assert_eq!(spec["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(spec["serviceAccountName"], "a");
        assert!(spec["enableServiceLinks"].is_null());
    }
}
