//! A real API server in this process, whose writes are counted and can be waited for. Not responsible for what the
//! tests do with it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apiserver::{ApiServer, AsyncReadWrite, NodeDialer};
use async_trait::async_trait;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use store::{Embedded, Options};
use tokio::sync::watch;
use tower::{ServiceExt, service_fn};

/// Resources that the tests look at, with where they are served.
const SEEN: [(&str, &str); 13] = [
    ("namespaces", "/api/v1"),
    ("nodes", "/api/v1"),
    ("pods", "/api/v1"),
    ("services", "/api/v1"),
    ("endpoints", "/api/v1"),
    ("configmaps", "/api/v1"),
    ("serviceaccounts", "/api/v1"),
    ("events", "/api/v1"),
    ("replicasets", "/apis/apps/v1"),
    ("deployments", "/apis/apps/v1"),
    ("endpointslices", "/apis/discovery.k8s.io/v1"),
    ("servicecidrs", "/apis/networking.k8s.io/v1"),
    ("leases", "/apis/coordination.k8s.io/v1"),
];

pub struct Api {
    server: ApiServer,
    writes: Arc<Mutex<Vec<String>>>,
    /// The write that fails.
    refused: Arc<Mutex<String>>,
    written: watch::Sender<usize>,
}

/// Everything there is at one moment, by resource.
pub struct World(BTreeMap<&'static str, Vec<Value>>);

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, _: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

impl Api {
    pub async fn start() -> Arc<Self> {
        let store = Arc::new(Embedded::in_memory(Options::default()).expect("a store"));
        let config = apiserver::Config {
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            node_port_range: 30000..=32767,
            advertise: "172.30.0.2:6443".parse().expect("an address"),
            cluster_domain: "cluster.local".into(),
        };
        let server = ApiServer::new(store, config, Arc::new(NoNodes)).expect("a valid configuration");
        server.bootstrap().await.expect("the bootstrap objects");
        Arc::new(Self { server, writes: Arc::default(), refused: Arc::default(), written: watch::Sender::new(0) })
    }

    /// A client whose writes are recorded.
    pub fn client(&self) -> Client {
        let (server, writes, written) = (self.server.clone(), self.writes.clone(), self.written.clone());
        let refused = self.refused.clone();
        let service = service_fn(move |request: Request<Body>| {
            let (server, writes, written) = (server.clone(), writes.clone(), written.clone());
            let refused = refused.lock().expect("no panic under the lock").clone();
            async move {
                let write =
                    (request.method() != Method::GET).then(|| format!("{} {}", request.method(), request.uri().path()));
                let request = match write.as_ref() == Some(&refused) {
                    true => Request::delete("/api/v1/namespaces/default").body(Body::empty()).expect("a request"),
                    false => request,
                };
                let answer = server.service().oneshot(request).await;
                if let Some(write) = write {
                    writes.lock().expect("no panic under the lock").push(write);
                    written.send_modify(|count| *count += 1);
                }
                answer
            }
        });
        Client::new(service, "default")
    }

    /// From now on this write, as method and path, fails.
    pub fn refuse(&self, write: &str) {
        *self.refused.lock().expect("no panic under the lock") = write.to_owned();
    }

    /// Everything written so far: method and path.
    pub fn writes(&self) -> Vec<String> {
        self.writes.lock().expect("no panic under the lock").clone()
    }

    pub async fn world(&self) -> World {
        let client = Client::new(self.server.service(), "default");
        let mut world = BTreeMap::new();
        for (resource, group) in SEEN {
            let request = Request::get(format!("{group}/{resource}")).body(Vec::new()).expect("a request");
            let mut list: Value = client.request(request).await.expect("a list");
            let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            world.insert(resource, items);
        }
        World(world)
    }

    /// Returns once `wanted` holds, looking again after every write.
    pub async fn wait(&self, what: &str, wanted: impl Fn(&World) -> bool) {
        let mut written = self.written.subscribe();
        let holds = async {
            while !wanted(&self.world().await) {
                written.changed().await.expect("the API lives");
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), holds).await.is_err() {
            let world = json!(self.world().await.0);
            panic!("never: {what}; {world:#}; writes: {:#?}", self.writes());
        }
    }
}

impl World {
    /// The objects of a resource in the tests' own namespace (or of a cluster-scoped resource).
    pub fn list(&self, resource: &str) -> Vec<&Value> {
        let here = |object: &&Value| object["metadata"]["namespace"].as_str().is_none_or(|name| name == "shop");
        self.0[resource].iter().filter(here).collect()
    }

    pub fn has(&self, resource: &str, namespace: &str, name: &str) -> bool {
        self.0[resource].iter().any(|o| o["metadata"]["namespace"] == namespace && o["metadata"]["name"] == name)
    }

    pub fn has_event(&self, reason: &str, about: &str) -> bool {
        self.0["events"].iter().any(|event| event["reason"] == reason && event["involvedObject"]["name"] == about)
    }
}
