//! Whole requests to an API server in memory: path, query, media types, body.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, AsyncReadWrite, Body, Config, NodeDialer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use store::{Embedded, Options};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::choose;

/// A server remembers what it is sent: now and then a new one keeps the memory small.
const LIFETIME: usize = 2_000;
/// How long a watch is listened to.
const PATIENCE: Duration = Duration::from_millis(1);
/// More than all that a server holds in its lifetime.
const LONGEST_ANSWER: usize = 256 << 20;

const HEADS: &[(&str, &str, &str)] = &[
    ("GET", "application/json", "application/json"),
    ("GET", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", ""),
    ("GET", "application/vnd.kubernetes.protobuf", ""),
    ("POST", "application/json", "application/json"),
    ("POST", "application/json", "application/yaml"),
    ("POST", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"),
    ("PUT", "application/json", "application/json"),
    ("PATCH", "application/json", "application/json-patch+json"),
    ("PATCH", "application/json", "application/merge-patch+json"),
    ("PATCH", "application/json", "application/strategic-merge-patch+json"),
    ("DELETE", "application/json", "application/json"),
];

/// The first byte chooses method and media types; up to a line feed comes path and query, then the body. What is created
/// is there as the answer said, and sending it back changes nothing.
pub fn requests(bytes: &[u8]) {
    let Some((head, rest)) = choose(bytes, HEADS) else { return };
    let (target, body) = match rest.iter().position(|b| *b == b'\n') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &[][..]),
    };
    renew();
    let Some(answered) = send(*head, target, body) else { return };
    let plain = target.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/.-".contains(byte));
    if head.0 == "POST" && head.1 == "application/json" && answered.status == 201 && plain {
        assert_stays(target, &answered.body);
    }
}

/// A continue token, as it is and wrapped as one. A forged one shows nothing of another collection.
pub fn tokens(bytes: &[u8]) {
    renew();
    for token in [URL_SAFE_NO_PAD.encode(bytes), String::from_utf8_lossy(bytes).into_owned()] {
        let escaped: String = token.bytes().map(|b| format!("%{b:02x}")).collect();
        for collection in
            ["/api/v1/namespaces/default/services", "/api/v1/services", "/api/v1/namespaces/kube-system/services"]
        {
            let Some(answered) = send(HEADS[0], format!("{collection}?limit=1&continue={escaped}").as_bytes(), b"")
            else {
                continue;
            };
            let Ok(page) = serde_json::from_slice::<Value>(&answered.body) else { panic!("an answer that isn't JSON") };
            let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
            assert!(answered.status == 200 || items.is_empty(), "objects in a refusal");
            for item in items {
                let namespace = item["metadata"]["namespace"].as_str().unwrap_or_default();
                let asked =
                    collection.strip_prefix("/api/v1/namespaces/").is_none_or(|rest| rest.starts_with(namespace));
                assert!(asked && item["spec"]["clusterIP"].is_string(), "{collection} shows {item}");
            }
        }
    }
}

/// What was created can be read, in every form, and a client that sends it back as it is changes nothing.
fn assert_stays(collection: &[u8], created: &[u8]) {
    let object: Value =
        serde_json::from_slice(created).unwrap_or_else(|error| panic!("an answer that isn't JSON: {error}"));
    let (Some(name), true) = (object["metadata"]["name"].as_str(), object["metadata"]["uid"].is_string()) else {
        return;
    };
    let Ok(collection) = std::str::from_utf8(collection) else { return };
    let path = format!("{}/{name}", collection.trim_end_matches('/'));
    let Some(read) = send(HEADS[0], path.as_bytes(), b"") else { return };
    // What was created to a subresource has no address of its own.
    if read.status == 404 || read.status == 405 {
        return;
    }
    assert_eq!(serde_json::from_slice::<Value>(&read.body).ok().as_ref(), Some(&object), "{path} is another object");
    for head in &HEADS[1..3] {
        let other = send(*head, path.as_bytes(), b"").map(|answered| answered.status);
        assert_eq!(other, Some(200), "{path} can't be shown as {}", head.1);
    }
    let Some(updated) = send(("PUT", "application/json", "application/json"), path.as_bytes(), created) else { return };
    // Some kinds can't be updated.
    if updated.status != 405 {
        let same = serde_json::from_slice::<Value>(&updated.body).ok();
        assert_eq!(same.as_ref(), Some(&object), "{path} sent back is another object");
    }
}

struct NoNodes;

#[async_trait::async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, _: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

struct Server {
    runtime: Runtime,
    api: ApiServer,
    asked: usize,
}

fn server() -> Option<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let store = Embedded::in_memory(Options { keep_revisions: 10, ..Options::default() }).ok()?;
    let config = Config {
        service_cidrs: vec!["10.96.0.0/24".parse().ok()?],
        node_port_range: 30_000..=32_767,
        advertise: "172.30.0.2:6443".parse().ok()?,
        cluster_domain: "cluster.local".to_owned(),
    };
    let api = ApiServer::new(Arc::new(store), config, Arc::new(NoNodes)).ok()?;
    runtime.block_on(api.bootstrap()).ok()?;
    for (collection, object) in [
        ("/api/v1/namespaces/default/services", r#"{"metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}"#),
        ("/api/v1/namespaces/kube-system/services", r#"{"metadata":{"name":"b"},"spec":{"ports":[{"port":80}]}}"#),
        ("/api/v1/namespaces/default/secrets", r#"{"metadata":{"name":"s"},"stringData":{"a":"b"}}"#),
    ] {
        let request = Request::post(collection).header("content-type", "application/json");
        let created = runtime.block_on(api.service().oneshot(request.body(Full::<Bytes>::from(object)).ok()?));
        assert_eq!(created.map(|response| response.status().as_u16()), Ok(201), "{collection}");
    }
    Some(Server { runtime, api, asked: 0 })
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Before an input, never while it looks at what it has made.
fn renew() {
    SERVER.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|server| server.asked > LIFETIME) {
            *kept = server();
        }
    });
}

struct Answered {
    status: u16,
    body: Vec<u8>,
}

/// `None` if it isn't a request that HTTP can carry.
fn send((method, accept, content): (&str, &str, &str), target: &[u8], body: &[u8]) -> Option<Answered> {
    let request =
        Request::builder().method(method).uri(target).header("accept", accept).header("content-type", content);
    let request = request.body(Full::<Bytes>::from(body.to_vec())).ok()?;
    SERVER.with_borrow_mut(|kept| {
        let Some(server) = kept else { panic!("a server in memory can always be made") };
        server.asked += 1;
        let answered = server.runtime.block_on(async {
            let response = server.api.service().oneshot(request).await.unwrap_or_else(|never| match never {});
            let (status, body) = (response.status().as_u16(), read(response.into_body()).await);
            Answered { status, body }
        });
        // Whatever is wrong is wrong with the request. Upstream calls a merge key that is missing an error without a reason.
        let words = String::from_utf8_lossy(&answered.body);
        let keyless = words.contains("does not contain declared merge key") && !words.contains("\"reason\"");
        assert!(answered.status != 500 || keyless, "an internal error: {words}");
        Some(answered)
    })
}

/// The whole body; of a watch, which has no end, the start.
async fn read(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, body.frame()).await {
        bytes.extend(frame.into_data().unwrap_or_default());
        assert!(bytes.len() <= LONGEST_ANSWER, "an answer without end");
    }
    bytes
}
