//! Patches of the three kinds, and the subresources that take them.

use serde_json::json;

use crate::server::{CONFIG_MAPS, SERVICES, Server, config_map, service};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

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

fn deployment() -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "portolan.local/testserver"}]},
            },
        },
    })
}

#[tokio::test]
async fn scale_is_read_and_written_in_its_own_kind() {
    let server = Server::start().await;
    let created = server.post(DEPLOYMENTS, &deployment()).await.ok();
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let scale = server.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("app=web")));
    let patched = server.patch(&path, "merge-patch+json", &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 5);
    let parent = server.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!((&parent["spec"]["replicas"], &parent["metadata"]["generation"]), (&json!(5), &json!(2)));
    server.patch(&path, "merge-patch+json", &json!({"spec": {"replicas": -1}})).await.fails(422, "Invalid");
    server.put(&path, &scale).await.fails(409, "Conflict");
    let mut fresh = server.get(&path).await.ok();
    fresh["spec"]["replicas"] = 0.into();
    // None is left out, as upstream leaves it out.
    assert_eq!(server.put(&path, &fresh).await.ok()["spec"], json!({}));
}

#[tokio::test]
async fn status_and_spec_are_written_through_their_own_paths() {
    let server = Server::start().await;
    server.post(DEPLOYMENTS, &deployment()).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 2, "observedGeneration": 1}});
    let written = server.patch(&format!("{path}/status"), "merge-patch+json", &status).await.ok();
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(written["metadata"]["generation"], 1, "a status is not a new wish");
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 7}});
    let written = server.patch(&path, "merge-patch+json", &both).await.ok();
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(3), &json!(2)));
    assert_eq!(written["metadata"]["generation"], 2);
}
