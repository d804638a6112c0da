//! A system's API as a test uses it: objects as JSON, waiting by watching. Not a client library: whatever fails ends the
//! test.

use std::collections::BTreeSet;
use std::path::Path;

use futures::StreamExt;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::patience;

/// A kind by its path.
#[derive(Clone, Copy)]
pub struct Kind {
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
}

impl Kind {
    pub const POD: Kind = Kind::namespaced("api/v1", "pods");
    pub const SERVICE: Kind = Kind::namespaced("api/v1", "services");
    pub const ENDPOINTS: Kind = Kind::namespaced("api/v1", "endpoints");
    pub const CONFIG_MAP: Kind = Kind::namespaced("api/v1", "configmaps");
    pub const SECRET: Kind = Kind::namespaced("api/v1", "secrets");
    pub const NAMESPACE: Kind = Kind { group: "api/v1", plural: "namespaces", namespaced: false };
    pub const EVENT: Kind = Kind::namespaced("api/v1", "events");
    pub const NODE: Kind = Kind { group: "api/v1", plural: "nodes", namespaced: false };
    pub const DEPLOYMENT: Kind = Kind::namespaced("apis/apps/v1", "deployments");
    pub const SLICE: Kind = Kind::namespaced("apis/discovery.k8s.io/v1", "endpointslices");

    pub const fn namespaced(group: &'static str, plural: &'static str) -> Kind {
        Kind { group, plural, namespaced: true }
    }

    fn collection(&self, namespace: &str) -> String {
        match self.namespaced {
            true => format!("/{}/namespaces/{namespace}/{}", self.group, self.plural),
            false => format!("/{}/{}", self.group, self.plural),
        }
    }
}

/// A system's API, by its unix socket.
pub struct Api {
    runtime: Runtime,
    client: Client,
}

impl Api {
    pub fn new(socket: &Path) -> Self {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = threads.expect("a runtime");
        let client = runtime.block_on(async { runtime::transport::unix(socket) });
        Api { runtime, client }
    }

    /// An object by `name` (in the namespace `default`) or `namespace/name`.
    #[track_caller]
    pub fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        self.runtime.block_on(self.read(&format!("{}/{name}", kind.collection(namespace))))
    }

    #[track_caller]
    pub fn get(&self, kind: Kind, name: &str) -> Value {
        self.find(kind, name).unwrap_or_else(|| panic!("there is no {} {name}", kind.plural))
    }

    /// The objects of the namespace `default` that a label selector picks.
    #[track_caller]
    pub fn list(&self, kind: Kind, selector: &str) -> Vec<Value> {
        let path = format!("{}?labelSelector={}", kind.collection("default"), encoded(selector));
        items(self.runtime.block_on(self.read(&path)).expect("a collection that is served"))
    }

    #[track_caller]
    pub fn create(&self, kind: Kind, object: &Value) -> Value {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        self.send("POST", &kind.collection(namespace), "application/json", object)
    }

    /// Creates an object on a server that may be killed meanwhile: a failure says whether it was refused (`Ok(None)`
    /// means it is there already) or nothing is known.
    pub fn try_create(&self, kind: Kind, object: &Value) -> Result<Option<Value>, kube::Error> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let path = kind.collection(namespace);
        let request = request("POST", &path, "application/json", object.to_string().into_bytes());
        match self.runtime.block_on(self.client.request(request)) {
            Ok(made) => Ok(Some(made)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Merges a patch (RFC 7396) into an object.
    #[track_caller]
    pub fn merge(&self, kind: Kind, name: &str, patch: &Value) -> Value {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let path = format!("{}/{name}", kind.collection(namespace));
        self.send("PATCH", &path, "application/merge-patch+json", patch)
    }

    #[track_caller]
    pub fn delete(&self, kind: Kind, name: &str) {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        self.send("DELETE", &format!("{}/{name}", kind.collection(namespace)), "application/json", &Value::Null);
    }

    /// Watches an object until it's as wanted (`Null`: it isn't there), and returns it.
    #[track_caller]
    pub fn until(&self, kind: Kind, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let mut found = self.watch(kind, namespace, &query, &format!("{name}: {what}"), |all| {
            wanted(all.first().unwrap_or(&Value::Null))
        });
        found.pop().unwrap_or_default()
    }

    /// Watches the objects of `default` that a label selector picks until they are as wanted, and returns them.
    #[track_caller]
    pub fn until_all(&self, kind: Kind, selector: &str, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let query = format!("labelSelector={}", encoded(selector));
        self.watch(kind, "default", &query, &format!("{selector}: {what}"), wanted)
    }

    /// The addresses of a Service's ready endpoints, once they are as wanted.
    #[track_caller]
    pub fn until_ready(
        &self,
        service: &str,
        what: &str,
        wanted: impl Fn(&BTreeSet<String>) -> bool,
    ) -> BTreeSet<String> {
        let selector = format!("kubernetes.io/service-name={service}");
        ready(&self.until_all(Kind::SLICE, &selector, what, |slices| wanted(&ready(slices))))
    }

    /// Waits until a pod is ready, and returns it.
    #[track_caller]
    pub fn until_pod_ready(&self, name: &str) -> Value {
        self.until(Kind::POD, name, "ready", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        })
    }

    #[track_caller]
    fn watch(
        &self,
        kind: Kind,
        namespace: &str,
        query: &str,
        what: &str,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let path = format!("{}?{query}", kind.collection(namespace));
        let mut last = Vec::new();
        let watching = async {
            loop {
                let list = self.read(&path).await.expect("a collection that is served");
                let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
                last = items(list);
                if wanted(&last) {
                    return;
                }
                let request = request("GET", &format!("{path}&watch=true&resourceVersion={revision}"), "", Vec::new());
                let events = self.client.request_events::<Value>(request).await;
                let mut events = events.unwrap_or_else(|e| panic!("cannot watch {path}: {e}")).boxed();
                // What changed is for the next list to say.
                while let Some(Ok(WatchEvent::Bookmark(_))) = events.next().await {}
            }
        };
        let done = self.runtime.block_on(async { tokio::time::timeout(patience(), watching).await.is_ok() });
        assert!(done, "{} {what}: not within {:?}; last seen: {}", kind.plural, patience(), pretty(&last));
        last
    }

    async fn read(&self, path: &str) -> Option<Value> {
        match self.client.request::<Value>(request("GET", path, "", Vec::new())).await {
            Ok(value) => Some(value),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Value {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let sent = self.runtime.block_on(self.client.request(request(method, path, content_type, bytes)));
        sent.unwrap_or_else(|e| panic!("{method} {path} {body}: {e}"))
    }
}

/// The addresses of the endpoints that are ready.
pub fn ready(slices: &[Value]) -> BTreeSet<String> {
    let endpoints = slices.iter().filter_map(|s| s["endpoints"].as_array()).flatten();
    let ready = endpoints.filter(|e| e["conditions"]["ready"] != Value::Bool(false));
    ready.filter_map(|e| e["addresses"][0].as_str()).map(str::to_owned).collect()
}

fn request(method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Request<Vec<u8>> {
    let mut request = Request::builder().method(method).uri(path);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    request.body(body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

fn items(mut list: Value) -> Vec<Value> {
    match list["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

/// A selector as part of a query.
fn encoded(selector: &str) -> String {
    selector.replace('=', "%3D").replace(',', "%2C").replace('/', "%2F")
}

fn pretty(objects: &[Value]) -> String {
    serde_json::to_string_pretty(objects).unwrap_or_default()
}
