//! Patches of the three kinds, and the subresources that take them.

use serde_json::json;

use crate::server::{CONFIG_MAPS, SERVICES, Server, config_map, service};

#[tokio::test]
async fn the_three_kinds_of_patch_apply() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    server.post(CONFIG_MAPS, &config_map("a", json!({"x": "1", "y": "1"}))).await.ok();
    let merged = server.patch(&path, "merge-patch+json", &json!({"data": {"x": null, "z": "1"}})).await.ok();
    assert_eq!(merged["data"], json!({"y": "1", "z": "1"}));
    let operations = json!([{"op": "test", "path": "/data/y", "value": "1"}, {"op": "remove", "path": "/data/y"}]);
    let patched = server.patch(&path, "json-patch+json", &operations).await.ok();
    assert_eq!(patched["data"], json!({"z": "1"}));
    server.patch(&path, "json-patch+json", &operations).await.fails(422, "Invalid");
    let status = server.patch(&path, "apply-patch+yaml", &json!({})).await.fails(415, "UnsupportedMediaType");
    assert!(status["message"].as_str().unwrap().contains("server-side apply"), "{status}");
    server.patch(&path, "json", &json!({})).await.fails(415, "UnsupportedMediaType");
    server.patch(&format!("{CONFIG_MAPS}/none"), "merge-patch+json", &json!({})).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_strategic_patch_merges_ports_by_port() {
    let server = Server::start().await;
    let spec = json!({"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}]});
    server.post(SERVICES, &service("a", spec)).await.ok();
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let patched = server.patch(&format!("{SERVICES}/a"), "strategic-merge-patch+json", &patch).await.ok();
    let ports = patched["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 2);
    assert_eq!((&ports[0]["name"], &ports[0]["targetPort"]), (&json!("http"), &json!(8080)));
}

#[tokio::test]
async fn a_patch_may_carry_the_revision_it_is_for() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let created = server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let patch = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"k": "v"}});
    server.patch(&path, "merge-patch+json", &patch).await.ok();
    let again = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"k": "w"}});
    server.patch(&path, "merge-patch+json", &again).await.fails(409, "Conflict");
}
