//! Pods: binding, eviction, logs through a node's agent, and typed clients over the tower service.

use std::io;
use std::sync::Arc;

use apiserver::{AsyncReadWrite, NodeDialer};
use async_trait::async_trait;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{PODS, Server, config, pod};

/// A node whose agent answers every log request with the path asked and then, piece by piece, what it is told.
struct Agent {
    pieces: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<&'static str>>,
}

#[async_trait]
impl NodeDialer for Agent {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        assert_eq!(node, "n1");
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut head = vec![0; 4096];
        let mut pieces = {
            let mut shared = self.pieces.lock().await;
            std::mem::replace(&mut *shared, tokio::sync::mpsc::channel(1).1)
        };
        tokio::spawn(async move {
            let read = theirs.read(&mut head).await.unwrap();
            let request = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let start = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            theirs.write_all(format!("{start}{:x}\r\n{path}\n\r\n", path.len() + 1).as_bytes()).await.unwrap();
            while let Some(piece) = pieces.recv().await {
                theirs.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
            }
            theirs.write_all(b"0\r\n\r\n").await.unwrap();
        });
        Ok(Box::new(ours))
    }
}

fn binding(node: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn a_pod_runs_only_as_an_account_that_is_there() {
    let server = Server::start().await;
    let mut object = pod("a");
    object["spec"]["serviceAccountName"] = "nope".into();
    let status = server.post(PODS, &object).await.fails(403, "Forbidden");
    let why =
        r#"pods "a" is forbidden: error looking up service account default/nope: serviceaccount "nope" not found"#;
    assert_eq!(status["message"], why);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nope"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", &account).await.ok();
    server.post(PODS, &object).await.ok();
    let mut early = pod("b");
    early["spec"]["serviceAccountName"] = "default".into();
    server.post(PODS, &early).await.ok();
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::start().await;
    server.post(PODS, &pod("a")).await.ok();
    let path = format!("{PODS}/a/binding");
    assert_eq!(server.post(&path, &binding("n1")).await.code, 201);
    let bound = server.get(&format!("{PODS}/a")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"), "{conditions:?}");
    let status = server.post(&path, &binding("n2")).await.fails(409, "Conflict");
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );
    server.post(&format!("{PODS}/b/binding"), &binding("n1")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn logs_are_passed_through_piece_by_piece() {
    let (say, pieces) = tokio::sync::mpsc::channel(1);
    let server = Server::with(config(), Arc::new(Agent { pieces: pieces.into() })).await;
    server.post(PODS, &pod("a")).await.ok();
    assert_eq!(server.get(&format!("{PODS}/a/log")).await.body, "", "nothing runs yet");
    server.post(&format!("{PODS}/a/binding"), &binding("n1")).await.ok();
    let pods: Api<Pod> = Api::default_namespaced(server.client());
    let params = LogParams { follow: true, tail_lines: Some(5), ..LogParams::default() };
    let mut lines = pods.log_stream("a", &params).await.unwrap().lines();
    assert_eq!(lines.try_next().await.unwrap().unwrap(), "/containerLogs/default/a/main?follow=true&tailLines=5");
    say.send("one\n").await.unwrap();
    assert_eq!(lines.try_next().await.unwrap().unwrap(), "one", "not held back until the end");
    say.send("two\n").await.unwrap();
    drop(say);
    assert_eq!(lines.try_next().await.unwrap().unwrap(), "two");
    assert_eq!(lines.try_next().await.unwrap(), None);
}

#[tokio::test]
async fn logs_of_the_wrong_container_are_refused() {
    let server = Server::start().await;
    let mut two = pod("a");
    two["spec"]["containers"] = json!([{"name": "x", "image": "i"}, {"name": "y", "image": "i"}]);
    server.post(PODS, &two).await.ok();
    let status = server.get(&format!("{PODS}/a/log")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "a container name must be specified for pod a, choose one of: [x y]");
    let status = server.get(&format!("{PODS}/a/log?container=z")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "container z is not valid for pod a");
    server.post(&format!("{PODS}/a/binding"), &binding("n1")).await.ok();
    server.get(&format!("{PODS}/a/log?container=x")).await.fails(500, "InternalError");
}

/// A way to nodes that has a bug.
struct Broken;

#[async_trait]
impl NodeDialer for Broken {
    async fn dial(&self, _node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        panic!("a bug")
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_not_the_end() {
    let server = Server::with(config(), Arc::new(Broken)).await;
    server.post(PODS, &pod("a")).await.ok();
    server.post(&format!("{PODS}/a/binding"), &binding("n1")).await.ok();
    server.get(&format!("{PODS}/a/log")).await.fails(500, "InternalError");
    server.get(&format!("{PODS}/a")).await.ok();
}

/// A server on a unix socket, as nodes reach it.
#[tokio::test]
async fn the_peer_of_a_unix_socket_is_trusted() {
    let server = Server::start().await;
    let path = std::env::temp_dir().join(format!("apiserver-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn({
        let (api, stop) = (server.api.clone(), stop.clone());
        async move { api.serve_unix(listener, stop).await }
    });
    let pods: Api<Pod> = Api::default_namespaced(runtime::transport::unix(&path));
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    let mut seen = Box::pin(watcher(pods.clone(), watcher::Config::default().streaming_lists()).applied_objects());
    let new = pod("a");
    let (first, _) = tokio::join!(seen.try_next(), server.post(PODS, &new));
    assert_eq!(first.unwrap().unwrap().metadata.name.as_deref(), Some("a"));
    stop.cancel();
    serving.await.unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn a_typed_client_does_everything_in_process() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let created = maps
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap())
        .await
        .unwrap();
    assert!(created.metadata.uid.is_some());
    let patch = Patch::Merge(json!({"data": {"k": "v"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap()["k"], "v");
    let list = maps.list(&ListParams::default().fields("metadata.name=a")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let missing = maps.get_opt("none").await.unwrap();
    assert!(missing.is_none());
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_watcher_follows_by_list_and_by_streaming_list() {
    let server = Server::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).unwrap();
    maps.create(&PostParams::default(), &map("first")).await.unwrap();
    let configs = [watcher::Config::default(), watcher::Config::default().streaming_lists()];
    for (i, config) in configs.into_iter().enumerate() {
        let mut seen = Box::pin(watcher(maps.clone(), config).applied_objects());
        assert_eq!(seen.try_next().await.unwrap().unwrap().metadata.name.as_deref(), Some("first"));
        for _ in 0..i {
            seen.try_next().await.unwrap();
        }
        let name = format!("later-{i}");
        maps.create(&PostParams::default(), &map(&name)).await.unwrap();
        assert_eq!(seen.try_next().await.unwrap().unwrap().metadata.name, Some(name));
    }
}
