//! Watches: what comes, in which order, as which event.

use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::server::{CONFIG_MAPS, PODS, Server, config_map};

/// The events of a watch as they arrive.
struct Events {
    body: apiserver::Body,
    pending: Vec<u8>,
}

impl Events {
    async fn open(server: &Server, query: &str, accept: &str, ending: &CancellationToken) -> Self {
        Events::open_at(server, CONFIG_MAPS, query, accept, ending).await
    }

    async fn open_at(server: &Server, path: &str, query: &str, accept: &str, ending: &CancellationToken) -> Self {
        let request = Request::get(format!("{path}?watch=true&{query}")).header("accept", accept);
        let service = server.api.service_for(Some(apiserver::Identity::trusted()), ending.clone());
        let response = service.oneshot(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), pending: Vec::new() }
    }

    async fn start(server: &Server, query: &str) -> Self {
        Events::open(server, query, "application/json", &CancellationToken::new()).await
    }

    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.pending.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("an event");
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name)),
            "{event}"
        );
        event["object"].clone()
    }
}

fn labelled(name: &str, tier: &str) -> Value {
    let mut object = config_map(name, json!({}));
    object["metadata"]["labels"] = json!({"tier": tier});
    object
}

#[tokio::test]
async fn a_watch_goes_on_exactly_where_a_list_ended() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("before", json!({}))).await.ok();
    let list = server.get(CONFIG_MAPS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.post(CONFIG_MAPS, &config_map("between", json!({}))).await.ok();
    let mut events = Events::start(&server, &format!("resourceVersion={revision}")).await;
    events.expect("ADDED", "between").await;
    server.patch(&format!("{CONFIG_MAPS}/before"), "merge-patch+json", &json!({"data": {"k": "v"}})).await.ok();
    let modified = events.expect("MODIFIED", "before").await;
    assert_eq!(modified["data"]["k"], "v");
    server.delete(&format!("{CONFIG_MAPS}/before"), &json!({})).await.ok();
    let deleted = events.expect("DELETED", "before").await;
    let deleted_at: i64 = deleted["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert_eq!(deleted_at, server.store.revision().await.unwrap().0, "a deletion has its own revision");
}

#[tokio::test]
async fn a_watch_without_a_revision_starts_with_what_is_there() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    for query in ["", "resourceVersion=0"] {
        let mut events = Events::start(&server, query).await;
        events.expect("ADDED", "a").await;
    }
}

#[tokio::test]
async fn initial_events_end_with_an_annotated_bookmark() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::start(&server, query).await;
    events.expect("ADDED", "a").await;
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let metadata = &bookmark["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(metadata["resourceVersion"], server.store.revision().await.unwrap().to_string());
    server.post(CONFIG_MAPS, &config_map("b", json!({}))).await.ok();
    events.expect("ADDED", "b").await;
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::start(&server, none).await;
    server.post(CONFIG_MAPS, &config_map("c", json!({}))).await.ok();
    events.expect("ADDED", "c").await;
}

#[tokio::test]
async fn a_watch_from_nowhere_says_when_it_has_told_what_there_is() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    for query in ["allowWatchBookmarks=true", "allowWatchBookmarks=true&resourceVersion=0"] {
        let mut events = Events::start(&server, query).await;
        events.expect("ADDED", "a").await;
        let bookmark = events.next().await.unwrap();
        assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert!(bookmark["object"]["metadata"].get("creationTimestamp").is_none());
    }
}

#[tokio::test]
async fn only_the_old_path_watches_one_object() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let object = server.get(&format!("{CONFIG_MAPS}/a?watch=true")).await.ok();
    assert_eq!(object["metadata"]["name"], "a");
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/a")] {
        let old = path.replace("/v1/", "/v1/watch/");
        let events = server.get(&format!("{old}?timeoutSeconds=1")).await;
        assert_eq!(events.json()["type"], "ADDED", "{old}");
    }
    server.get("/api/v1/watch/nothing").await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_revision_of_the_future_is_an_error_event_of_initial_events() {
    let server = Server::start().await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1000000";
    let mut events = Events::start(&server, query).await;
    let error = events.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Timeout")));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn crossing_the_selector_is_appearing_and_disappearing() {
    let server = Server::start().await;
    let mut events = Events::start(&server, "labelSelector=tier%3Dfront").await;
    let path = format!("{CONFIG_MAPS}/a");
    server.post(CONFIG_MAPS, &labelled("a", "back")).await.ok();
    server.put(&path, &labelled("a", "front")).await.ok();
    events.expect("ADDED", "a").await;
    let mut changed = labelled("a", "front");
    changed["data"] = json!({"k": "v"});
    server.put(&path, &changed).await.ok();
    events.expect("MODIFIED", "a").await;
    let gone = server.put(&path, &labelled("a", "back")).await.ok();
    let deleted = events.expect("DELETED", "a").await;
    assert_eq!(deleted["metadata"]["labels"]["tier"], "front", "the last state that was selected");
    assert_eq!(deleted["metadata"]["resourceVersion"], gone["metadata"]["resourceVersion"]);
    server.delete(&path, &json!({})).await.ok();
    server.post(CONFIG_MAPS, &labelled("b", "front")).await.ok();
    events.expect("ADDED", "b").await;
}

#[tokio::test]
async fn one_name_is_watched_without_its_neighbours() {
    let server = Server::start().await;
    let mut events = Events::start(&server, "fieldSelector=metadata.name%3Da").await;
    server.post(CONFIG_MAPS, &config_map("ab", json!({}))).await.ok();
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    events.expect("ADDED", "a").await;
}

#[tokio::test]
async fn a_compacted_revision_is_an_error_event() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    server.store.compact(server.store.revision().await.unwrap()).await.unwrap();
    let mut events = Events::start(&server, "resourceVersion=2").await;
    let error = events.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    assert_eq!(error["object"]["code"], 410);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_takes_any_timeout_that_is_an_integer() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let mut longest = Events::start(&server, &format!("timeoutSeconds={}", i64::MAX)).await;
    longest.expect("ADDED", "a").await;
    let mut over = Events::start(&server, &format!("timeoutSeconds={}", i64::MIN)).await;
    let error = over.next().await.expect("an event");
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(500)), "{error}");
    assert_eq!(error["object"]["message"], "context deadline exceeded");
    assert_eq!(over.next().await, None);
}

#[tokio::test]
async fn a_bookmark_is_an_empty_object_and_an_empty_row_of_a_table() {
    let server = Server::start().await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let ended = json!({"k8s.io/initial-events-end": "true"});
    let (none, plain) = (CancellationToken::new(), "application/json");
    let mut events = Events::open_at(&server, PODS, query, plain, &none).await;
    let bookmark = events.next().await.unwrap()["object"].clone();
    assert_eq!(bookmark["spec"], json!({"containers": null}), "{bookmark}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut events = Events::open_at(&server, PODS, query, table, &none).await;
    let bookmark = events.next().await.unwrap()["object"].clone();
    let row = &bookmark["rows"][0];
    let cells = json!(["", "0/0", "", "0", "<unknown>", "<none>", "<none>", "<none>", "<none>"]);
    assert_eq!(row["cells"], cells, "{bookmark}");
    assert_eq!(row["object"]["metadata"]["annotations"], ended);
    assert!(bookmark["metadata"].get("annotations").is_none() && bookmark["columnDefinitions"].is_array());
}

#[tokio::test]
async fn a_bookmark_comes_before_the_end() {
    let server = Server::start().await;
    let revision = server.store.revision().await.unwrap();
    let mut events =
        Events::start(&server, &format!("resourceVersion={revision}&allowWatchBookmarks=true&timeoutSeconds=3")).await;
    let bookmark = events.next().await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], revision.to_string());
    assert!(events.next().await.is_none());
    let mut events = Events::start(&server, &format!("resourceVersion={revision}&timeoutSeconds=1")).await;
    assert!(events.next().await.is_none(), "no bookmarks for who doesn't ask");
}

#[tokio::test]
async fn tables_are_watched_with_columns_in_the_first_event_only() {
    let server = Server::start().await;
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut events = Events::open(&server, "", accept, &CancellationToken::new()).await;
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    server.post(CONFIG_MAPS, &config_map("b", json!({}))).await.ok();
    let second = events.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
}

#[tokio::test]
async fn watches_end_with_the_server() {
    let server = Server::start().await;
    let ending = CancellationToken::new();
    let mut events = Events::open(&server, "resourceVersion=0", "application/json", &ending).await;
    ending.cancel();
    assert!(events.next().await.is_none());
}
