//! Create and update: what the server adds, what it refuses, who wins.

use http::Method;
use serde_json::json;

use crate::server::{CONFIG_MAPS, PODS, Server, config_map, pod};

#[tokio::test]
async fn a_created_object_has_what_the_server_gives() {
    let server = Server::start().await;
    let answer = server.post(CONFIG_MAPS, &config_map("a", json!({"k": "v"}))).await;
    assert_eq!(answer.code, 201);
    let created = answer.ok();
    let metadata = &created["metadata"];
    assert_eq!((&metadata["namespace"], &created["data"]["k"]), (&json!("default"), &json!("v")));
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let got = server.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(got, created);
    let status = server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.fails(409, "AlreadyExists");
    assert_eq!(status["message"], "configmaps \"a\" already exists");
}

#[tokio::test]
async fn a_missing_object_is_named_in_the_status() {
    let server = Server::start().await;
    let status = server.get(&format!("{CONFIG_MAPS}/none")).await.fails(404, "NotFound");
    assert_eq!(status["message"], "configmaps \"none\" not found");
    assert_eq!(status["details"], json!({"name": "none", "kind": "configmaps"}));
    let status = server.get("/apis/apps/v1/namespaces/default/deployments/x").await.fails(404, "NotFound");
    assert_eq!(status["message"], "deployments.apps \"x\" not found");
    let status = server.get("/apis/nowhere/v1/things").await.fails(404, "NotFound");
    assert_eq!(status["message"], "the server could not find the requested resource");
}

#[tokio::test]
async fn names_are_generated_from_their_base() {
    let server = Server::start().await;
    let object = json!({"metadata": {"generateName": "web-"}});
    let names: Vec<String> =
        [server.post(CONFIG_MAPS, &object).await.ok(), server.post(CONFIG_MAPS, &object).await.ok()]
            .iter()
            .map(|created| created["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
    assert!(names.iter().all(|name| name.starts_with("web-") && name.len() == 9), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn the_body_must_be_the_kind_and_in_the_place_that_the_path_names() {
    let server = Server::start().await;
    let wrong_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    server.post(CONFIG_MAPS, &wrong_kind).await.fails(400, "BadRequest");
    let wrong_version = json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let status = server.post(CONFIG_MAPS, &wrong_version).await.fails(400, "BadRequest");
    let expected = "the API version in the data (apps/v1) does not match the expected API version (v1)";
    assert_eq!(status["message"], expected);
    let wrong_namespace = json!({"metadata": {"name": "a", "namespace": "kube-system"}});
    server.post(CONFIG_MAPS, &wrong_namespace).await.fails(400, "BadRequest");
    server.put(&format!("{CONFIG_MAPS}/b"), &config_map("a", json!({}))).await.fails(400, "BadRequest");
    let status = server.body(Method::POST, CONFIG_MAPS, "text/csv", "a,b").await.fails(415, "UnsupportedMediaType");
    assert!(status["message"].as_str().unwrap().contains("application/json"), "{status}");
    server.body(Method::POST, CONFIG_MAPS, "application/json", "{").await.fails(400, "BadRequest");
    let huge = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(3 << 20)}});
    server.post(CONFIG_MAPS, &huge).await.fails(413, "RequestEntityTooLarge");
}

#[tokio::test]
async fn an_update_needs_the_revision_it_was_made_from() {
    let server = Server::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let first = server.post(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await.ok();
    let mut second = first.clone();
    second["data"]["n"] = "2".into();
    let second = server.put(&path, &second).await.ok();
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let mut stale = first.clone();
    stale["data"]["n"] = "3".into();
    let status = server.put(&path, &stale).await.fails(409, "Conflict");
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to \
         the latest version and try again"
    );
    let unconditional = server.put(&path, &config_map("a", json!({"n": "4"}))).await.ok();
    assert_eq!(unconditional["data"]["n"], "4");
    let mut other = config_map("a", json!({}));
    other["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    server.put(&path, &other).await.fails(409, "Conflict");
    server.put(&format!("{CONFIG_MAPS}/b"), &config_map("b", json!({}))).await.fails(404, "NotFound");
}

#[tokio::test]
async fn an_update_of_a_deleted_object_does_not_bring_it_back() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let server = Server::start().await;
    let path = format!("{LEASES}/a");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}, "spec": {}});
    let created = server.put(&path, &lease).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    server.delete(&path, &json!({})).await.ok();
    let status = server.put(&path, &created).await.fails(409, "Conflict");
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
    assert!(status["message"].as_str().unwrap().ends_with(&why), "{status}");
    server.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start().await;
    let created = server.post(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await.ok();
    let revision = server.store.revision().await.unwrap();
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.put(&path, &created).await.ok(), created);
    assert_eq!(server.patch(&path, "merge-patch+json", &json!({"data": {"n": "1"}})).await.ok(), created);
    assert_eq!(server.store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn racing_updates_lose_nothing() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({"base": "x"}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..20).map(|n| {
        let (server, path) = (&server, &path);
        async move { server.patch(path, "merge-patch+json", &json!({"data": {format!("k{n}"): "v"}})).await.ok() }
    });
    futures::future::join_all(patches).await;
    let object = server.get(&path).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 21, "every patch is there");
}

#[tokio::test]
async fn field_validation_warns_or_refuses() {
    let server = Server::start().await;
    let mut odd = pod("a");
    odd["spec"]["foo"] = 1.into();
    let warned = server.post(&format!("{PODS}?dryRun=All"), &odd).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.foo\\\"\"");
    let ignored = server.post(&format!("{PODS}?dryRun=All&fieldValidation=Ignore"), &odd).await;
    assert!(!ignored.headers.contains_key("warning"));
    let status = server.post(&format!("{PODS}?fieldValidation=Strict"), &odd).await.fails(400, "BadRequest");
    assert!(
        status["message"].as_str().unwrap().contains("strict decoding error: unknown field \"spec.foo\""),
        "{status}"
    );
    server.post(&format!("{PODS}?fieldValidation=Maybe"), &odd).await.fails(422, "Invalid");
}

#[tokio::test]
async fn a_dry_run_does_everything_but_store() {
    let server = Server::start().await;
    let revision = server.store.revision().await.unwrap();
    let created = server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", json!({}))).await.ok();
    assert!(created["metadata"]["uid"].is_string());
    server.get(&format!("{CONFIG_MAPS}/a")).await.fails(404, "NotFound");
    assert_eq!(server.store.revision().await.unwrap(), revision);
    server.post(&format!("{CONFIG_MAPS}?dryRun=Some"), &config_map("a", json!({}))).await.fails(422, "Invalid");
    server.post(CONFIG_MAPS, &config_map("a", json!({"n": "1"}))).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let put = server.put(&format!("{path}?dryRun=All"), &config_map("a", json!({"n": "2"}))).await.ok();
    assert_eq!(put["data"]["n"], "2");
    server.delete(&format!("{path}?dryRun=All"), &json!({"dryRun": ["All"]})).await.ok();
    assert_eq!(server.get(&path).await.ok()["data"]["n"], "1");
}

#[tokio::test]
async fn invalid_objects_say_which_field_and_why() {
    let server = Server::start().await;
    let status = server.post(CONFIG_MAPS, &config_map("Bad_Name", json!({}))).await.fails(422, "Invalid");
    assert_eq!(status["details"]["kind"], "ConfigMap");
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueInvalid");
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": "),
        "{message}"
    );
}

#[tokio::test]
async fn objects_go_only_into_namespaces_that_are_there_and_stay() {
    let server = Server::start().await;
    let elsewhere = "/api/v1/namespaces/nowhere/configmaps";
    let status = server.post(elsewhere, &config_map("a", json!({}))).await.fails(404, "NotFound");
    assert_eq!(status["message"], "namespaces \"nowhere\" not found");
    server.post(elsewhere, &config_map("Bad_Name", json!({}))).await.fails(404, "NotFound");
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "short"}})).await.ok();
    let going = server.delete("/api/v1/namespaces/short", &json!({})).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let status =
        server.post("/api/v1/namespaces/short/configmaps", &config_map("a", json!({}))).await.fails(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut namespace = server.get("/api/v1/namespaces/short").await.ok();
    namespace["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/short/finalize", &namespace).await.ok();
    server.get("/api/v1/namespaces/short").await.fails(404, "NotFound");
}
