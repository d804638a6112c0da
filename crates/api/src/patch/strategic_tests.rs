//! Cases of strategic merge: each documented behaviour once.

use serde_json::{Value, json};

use crate::patch::{PatchError, strategic};
use crate::schema::definition;

fn on(kind: &str, original: Value, patch: Value) -> Result<Value, PatchError> {
    strategic(&original, &patch, definition(kind).unwrap())
}

fn service(original: Value, patch: Value) -> Value {
    on("io.k8s.api.core.v1.ServiceSpec", original, patch).unwrap()
}

fn pod(original: Value, patch: Value) -> Value {
    on("io.k8s.api.core.v1.PodSpec", original, patch).unwrap()
}

#[test]
fn service_ports_merge_by_port_alone() {
    let original = json!({"ports": [{"port": 80, "name": "a", "nodePort": 30001}, {"port": 443, "name": "b"}]});
    let patched = service(original.clone(), json!({"ports": [{"port": 80, "targetPort": 8080}]}));
    assert_eq!(
        patched["ports"],
        json!([{"port": 80, "name": "a", "nodePort": 30001, "targetPort": 8080}, {"port": 443, "name": "b"}])
    );
    let added = service(original.clone(), json!({"ports": [{"port": 81}]}));
    // As upstream does: without an order, what is new comes before what the patch doesn't mention.
    assert_eq!(added["ports"][0], json!({"port": 81}));
    assert_eq!(added["ports"].as_array().unwrap().len(), 3);
    // The documented trap: two protocols on one port are one element.
    let dns = json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]});
    let patched = service(dns, json!({"ports": [{"port": 53, "name": "x"}]}));
    assert_eq!(patched["ports"][0]["name"], "x");
    assert_eq!(patched["ports"][1].get("name"), None);
}

#[test]
fn list_elements_are_deleted_by_directive() {
    let original = json!({"ports": [{"port": 80}, {"port": 443}]});
    let patched = service(original, json!({"ports": [{"$patch": "delete", "port": 80}]}));
    assert_eq!(patched["ports"], json!([{"port": 443}]));
}

#[test]
fn a_list_is_replaced_by_directive() {
    let original = json!({"ports": [{"port": 80}, {"port": 443}]});
    let patched = service(original, json!({"ports": [{"$patch": "replace"}, {"port": 1}]}));
    assert_eq!(patched["ports"], json!([{"port": 1}]));
}

#[test]
fn element_order_is_set_and_others_keep_their_places() {
    let original = json!({"ports": [{"port": 1}, {"port": 2}, {"port": 3}]});
    let patch = json!({"$setElementOrder/ports": [{"port": 3}, {"port": 1}], "ports": [{"port": 3, "name": "c"}]});
    let patched = service(original.clone(), patch);
    assert_eq!(patched["ports"], json!([{"port": 2}, {"port": 3, "name": "c"}, {"port": 1}]));
    let only_order =
        service(original.clone(), json!({"$setElementOrder/ports": [{"port": 2}, {"port": 1}, {"port": 3}]}));
    assert_eq!(only_order["ports"], json!([{"port": 2}, {"port": 1}, {"port": 3}]));
    let patch = json!({"$setElementOrder/ports": [{"port": 1}], "ports": [{"port": 9}]});
    let error = on("io.k8s.api.core.v1.ServiceSpec", original, patch).unwrap_err();
    assert!(matches!(error, PatchError::ElementOrder { .. }), "{error}");
}

#[test]
fn kubectl_edit_of_a_port() {
    let original = json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP"});
    let patch = json!({"$setElementOrder/ports": [{"port": 81}],
                       "ports": [{"port": 81, "protocol": "TCP", "targetPort": 80}, {"$patch": "delete", "port": 80}]});
    assert_eq!(service(original, patch)["ports"], json!([{"port": 81, "protocol": "TCP", "targetPort": 80}]));
}

#[test]
fn maps_merge_and_null_deletes() {
    let original = json!({"selector": {"a": "1", "b": "2"}, "type": "NodePort"});
    let patched = service(original, json!({"selector": {"a": null, "c": "3"}, "type": null}));
    assert_eq!(patched, json!({"selector": {"b": "2", "c": "3"}}));
}

#[test]
fn map_directives() {
    let original = json!({"selector": {"a": "1"}});
    let replaced = service(original.clone(), json!({"selector": {"$patch": "replace", "b": "2"}}));
    assert_eq!(replaced["selector"], json!({"b": "2"}));
    let emptied = service(original.clone(), json!({"selector": {"$patch": "delete"}}));
    assert_eq!(emptied["selector"], json!({}));
    let unknown = on("io.k8s.api.core.v1.ServiceSpec", original, json!({"selector": {"$patch": "fold"}}));
    assert!(unknown.unwrap_err().to_string().starts_with("unknown patch type: fold in map: map["));
}

#[test]
fn retain_keys_drops_the_rest() {
    let original = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
    let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
    let patched = on("io.k8s.api.apps.v1.DeploymentSpec", original.clone(), patch.clone()).unwrap();
    assert_eq!(patched, json!({"strategy": {"type": "Recreate"}}));
    let added = on("io.k8s.api.apps.v1.DeploymentSpec", json!({}), patch).unwrap();
    assert_eq!(added, json!({"strategy": {"type": "Recreate"}}));
    let bad = json!({"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}});
    let error = on("io.k8s.api.apps.v1.DeploymentSpec", original, bad).unwrap_err();
    assert!(matches!(error, PatchError::RetainKeys));
}

#[test]
fn primitive_lists_are_sets_with_deletion() {
    let original = json!({"finalizers": ["a", "b"]});
    let meta = crate::schema::OBJECT_META;
    let added = on(meta, original.clone(), json!({"finalizers": ["c", "a"]})).unwrap();
    assert_eq!(added["finalizers"].as_array().unwrap().len(), 3);
    let deleted = on(meta, original, json!({"$deleteFromPrimitiveList/finalizers": ["a"]})).unwrap();
    assert_eq!(deleted, json!({"finalizers": ["b"]}));
}

#[test]
fn containers_and_their_lists_merge_by_their_own_keys() {
    let original = json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}],
                          "volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"name": "b"}],
                          "tolerations": [{"key": "k"}]});
    let patch = json!({"containers": [{"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}],
                       "volumeMounts": [{"mountPath": "/v", "readOnly": true}]}], "tolerations": [{"key": "z"}]});
    let patched = pod(original, patch);
    assert_eq!(patched["containers"][0]["image"], "y");
    assert_eq!(patched["containers"][0]["env"].as_array().unwrap().len(), 2);
    assert_eq!(patched["containers"][0]["volumeMounts"], json!([{"name": "v", "mountPath": "/v", "readOnly": true}]));
    assert_eq!(patched["containers"][1], json!({"name": "b"}));
    // No merge strategy: replaced.
    assert_eq!(patched["tolerations"], json!([{"key": "z"}]));
}

#[test]
fn a_missing_merge_key_is_an_error() {
    let error = on(
        "io.k8s.api.core.v1.PodSpec",
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": [{"image": "x"}]}),
    );
    assert!(error.unwrap_err().to_string().ends_with("does not contain declared merge key: name"));
}

#[test]
fn what_is_added_has_no_nulls_or_directives() {
    let patched = pod(
        json!({}),
        json!({"securityContext": {"runAsUser": 1, "fsGroup": null}, "containers": [{"name": "a", "$patch": "merge"}]}),
    );
    assert_eq!(patched["securityContext"], json!({"runAsUser": 1}));
}

#[test]
fn status_conditions_merge_by_type() {
    let original = json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]});
    let patch = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let patched = on("io.k8s.api.core.v1.NodeStatus", original, patch).unwrap();
    assert_eq!(
        patched["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}])
    );
}

#[test]
fn long_lists_merge_in_time_that_grows_with_them() {
    let variables =
        |value: &str| -> Vec<Value> { (0..15_000).map(|n| json!({"name": format!("N{n}"), "value": value})).collect() };
    let order: Vec<Value> = (0..15_000).rev().map(|n| json!({"name": format!("N{n}")})).collect();
    let container = |env: Value| json!({"containers": [{"name": "a", "env": env}]});
    let mut patch = container(variables("new").into_iter().rev().collect());
    patch["containers"][0]["$setElementOrder/env"] = order.clone().into();
    let started = std::time::Instant::now();
    let patched = pod(container(variables("old").into()), patch);
    let (tokens, kept) = (0..20_000).partition::<Vec<u32>, _>(|n| n % 2 == 0);
    let deleted = json!({"$deleteFromPrimitiveList/finalizers": tokens, "finalizers": kept});
    let metadata = on("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", json!({"finalizers": tokens}), deleted);
    // Quadratic, it takes minutes.
    assert!(started.elapsed().as_secs() < 30);
    let env = patched["containers"][0]["env"].as_array().unwrap();
    assert_eq!((env.len(), &env[0]["name"], &env[0]["value"]), (15_000, &json!("N14999"), &json!("new")));
    assert_eq!(metadata.unwrap()["finalizers"], json!(kept));
}

proptest::proptest! {
    /// A patch that repeats the object changes nothing.
    #[test]
    fn patching_with_itself_changes_nothing(ports in proptest::collection::btree_set(1_u16..100, 0..6)) {
        let list: Vec<Value> = ports.iter().map(|p| json!({"port": p, "name": format!("p{p}")})).collect();
        let object = json!({"ports": list, "selector": {"a": "b"}});
        proptest::prop_assert_eq!(service(object.clone(), object.clone()), object);
    }
}
