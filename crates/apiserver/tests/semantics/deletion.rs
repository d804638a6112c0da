//! Deletion: at once, by finalizer, with grace, under preconditions, of whole collections.

use serde_json::json;

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod};

#[tokio::test]
async fn an_object_without_ties_is_gone_at_once() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let status = server.delete(&format!("{CONFIG_MAPS}/a"), &json!({})).await.ok();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}));
    server.get(&format!("{CONFIG_MAPS}/a")).await.fails(404, "NotFound");
    server.delete(&format!("{CONFIG_MAPS}/a"), &json!({})).await.fails(404, "NotFound");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut object = config_map("a", json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    server.post(CONFIG_MAPS, &object).await.ok();
    let going = server.delete(&path, &json!({})).await.ok();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = server.delete(&path, &json!({})).await.ok();
    assert_eq!(
        again["metadata"]["resourceVersion"], going["metadata"]["resourceVersion"],
        "a second delete writes nothing"
    );
    let add = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two", "example.com/three"]}});
    server.patch(&path, "merge-patch+json", &add).await.fails(422, "Invalid");
    let one = json!({"metadata": {"finalizers": ["example.com/two"]}});
    server.patch(&path, "merge-patch+json", &one).await.ok();
    server.get(&path).await.ok();
    server.patch(&path, "merge-patch+json", &json!({"metadata": {"finalizers": null}})).await.ok();
    server.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn propagation_is_a_finalizer_for_the_garbage_collector() {
    let server = Server::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
        let path = format!("{CONFIG_MAPS}/a");
        let going = server.delete(&path, &json!({"propagationPolicy": policy})).await.ok();
        assert_eq!(going["metadata"]["finalizers"], json!([finalizer]));
        server.patch(&path, "merge-patch+json", &json!({"metadata": {"finalizers": []}})).await.ok();
        server.get(&path).await.fails(404, "NotFound");
    }
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    server.delete(&path, &json!({"propagationPolicy": "Sideways"})).await.fails(422, "Invalid");
    server.delete(&format!("{path}?propagationPolicy=Background"), &json!({})).await.ok();
    server.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn preconditions_protect_against_deleting_another() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    server.delete(&path, &json!({"preconditions": {"uid": "another"}})).await.fails(409, "Conflict");
    server.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await.fails(409, "Conflict");
    server.delete(&path, &json!({"preconditions": {"uid": created["metadata"]["uid"]}})).await.ok();
}

#[tokio::test]
async fn a_pod_that_never_ran_needs_no_grace() {
    let server = Server::start().await;
    server.post(PODS, &pod("a")).await.ok();
    server.delete(&format!("{PODS}/a"), &json!({})).await.ok();
    server.get(&format!("{PODS}/a")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_it_is_selected() {
    let server = Server::start().await;
    for (name, tier) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"tier": tier});
        server.post(CONFIG_MAPS, &object).await.ok();
    }
    let deleted = server.delete(&format!("{CONFIG_MAPS}?labelSelector=tier%3Dx"), &json!({})).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_period_and_it_only_shrinks() {
    let server = Server::start().await;
    server.post(PODS, &pod("a")).await.ok();
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{PODS}/a/binding"), &binding).await.ok();
    let path = format!("{PODS}/a");
    let going = server.delete(&path, &json!({})).await.ok();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = server.delete(&path, &json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = server.delete(&path, &json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(shorter["metadata"]["deletionTimestamp"].as_str() < going["metadata"]["deletionTimestamp"].as_str());
    server.delete(&path, &json!({"gracePeriodSeconds": 0})).await.ok();
    server.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn the_namespaces_every_cluster_needs_are_kept() {
    let server = Server::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        server.delete(&format!("/api/v1/namespaces/{name}"), &json!({})).await.fails(403, "Forbidden");
    }
}
