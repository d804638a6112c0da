//! A server for one test, in memory, and plain requests to it.

use std::io;
use std::sync::Arc;

use apiserver::{ApiServer, AsyncReadWrite, Config, Identity, NodeDialer};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use store::{Embedded, Options, Store};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// A cluster without nodes.
pub struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no node {node}")))
    }
}

pub struct Server {
    pub api: ApiServer,
    pub store: Arc<dyn Store>,
}

/// A plain answer.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The object of a request that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.code.is_success(), "{}: {}", self.code, String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The Status of a request that must have failed so.
    #[track_caller]
    pub fn fails(self, code: u16, reason: &str) -> Value {
        let status = self.json();
        assert_eq!((self.code.as_u16(), &status["reason"]), (code, &json!(reason)), "{status}");
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
        status
    }
}

pub fn config() -> Config {
    Config {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_port_range: 30000..=32767,
        advertise: "172.30.0.2:6443".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
    }
}

impl Server {
    pub async fn start() -> Self {
        Server::with(config(), Arc::new(NoNodes)).await
    }

    pub async fn with(config: Config, dialer: Arc<dyn NodeDialer>) -> Self {
        Server::on(Arc::new(Embedded::in_memory(Options::default()).unwrap()), config, dialer).await
    }

    pub async fn on(store: Arc<dyn Store>, config: Config, dialer: Arc<dyn NodeDialer>) -> Self {
        let api = ApiServer::new(store.clone(), config, dialer).unwrap();
        api.bootstrap().await.unwrap();
        Server { api, store }
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.api.service(), "default")
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.send_as(Some(Identity::trusted()), request).await
    }

    pub async fn send_as(&self, identity: Option<Identity>, request: Request<Full<Bytes>>) -> Answer {
        let service = self.api.service_for(identity, CancellationToken::new());
        let response = service.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { code: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn get_as(&self, accept: &str, path: &str) -> Answer {
        self.send(Request::get(path).header("accept", accept).body(Full::default()).unwrap()).await
    }

    pub async fn body(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.body(Method::POST, path, "application/json", object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.body(Method::PUT, path, "application/json", object.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        self.body(Method::PATCH, path, &format!("application/{kind}"), patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.body(Method::DELETE, path, "application/json", options.to_string()).await
    }
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "portolan.local/testserver"}]},
    })
}
