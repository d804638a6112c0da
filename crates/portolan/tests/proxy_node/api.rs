//! The API server, in this process, served in a network namespace for as long as it is wanted. What it stores stays.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};

use apiserver::pki::{self, Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer};
use kube::Client;
use netns::NetNs;
use serde_json::Value;
use store::embedded::{Embedded, Options};
use store::{Op, Store, Txn};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 6443);

pub struct Api {
    server: ApiServer,
    store: Arc<Embedded>,
    tls: Arc<rustls::ServerConfig>,
    client: Client,
    threads: Runtime,
    /// What serves; its end is the end of all connections.
    serving: Mutex<Option<Runtime>>,
}

struct NoNodes;

#[async_trait::async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, _: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        Err(std::io::ErrorKind::NotConnected.into())
    }
}

impl Api {
    /// Serves in a namespace; who has the kubeconfig may do everything.
    pub fn start(namespace: &NetNs, kubeconfig: &Path) -> Api {
        let names = ServerNames {
            addresses: vec![SocketAddr::from(ADDRESS).ip()],
            names: vec!["localhost".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::in_memory(&names).unwrap();
        pki::write(kubeconfig, &pki.kubeconfig("test", &format!("https://{}", SocketAddr::from(ADDRESS)))).unwrap();
        let tls = apiserver::server_config(&pki).unwrap();
        let threads = runtime();
        let config = Config {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_port_range: 30_000..=32_767,
            advertise: SocketAddr::from(([192, 0, 2, 1], 6443)),
            cluster_domain: "cluster.local".to_owned(),
        };
        let (store, server, client) = threads.block_on(async {
            let store = Arc::new(Embedded::in_memory(Options::default()).unwrap());
            let server = ApiServer::new(store.clone(), config, Arc::new(NoNodes)).unwrap();
            server.bootstrap().await.unwrap();
            let client = Client::new(server.service(), "default");
            (store, server, client)
        });
        let api = Api { server, store, tls, client, threads, serving: Mutex::default() };
        api.serve(namespace);
        api
    }

    pub fn serve(&self, namespace: &NetNs) {
        let listener = namespace.run(|| TcpListener::bind(SocketAddr::from(ADDRESS)).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (server, tls, serving) = (self.server.clone(), self.tls.clone(), runtime());
        let listener = {
            let _threads = serving.enter();
            tokio::net::TcpListener::from_std(listener).unwrap()
        };
        serving.spawn(async move { server.serve_tls(listener, tls, CancellationToken::new()).await });
        *self.serving.lock().unwrap() = Some(serving);
    }

    /// As if it had been killed.
    pub fn stop(&self) {
        let serving = self.serving.lock().unwrap().take().unwrap();
        serving.shutdown_timeout(std::time::Duration::from_secs(5));
    }

    pub fn send(&self, method: &str, path: &str, kind: &str, object: &Value) -> Value {
        self.try_send(method, path, kind, object).unwrap()
    }

    fn try_send(&self, method: &str, path: &str, kind: &str, object: &Value) -> Result<Value, kube::Error> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(object.to_string().into_bytes()).unwrap();
        self.threads.block_on(self.client.request(request))
    }

    pub fn create(&self, path: &str, object: &Value) {
        self.send("POST", path, "application/json", object);
    }

    /// Makes an object of a collection, or makes it what it should be.
    pub fn put(&self, collection: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        match self.try_send("PUT", &format!("{collection}/{name}"), "application/json", object) {
            Err(kube::Error::Api(status)) if status.code == 404 => self.create(collection, object),
            answer => drop(answer.unwrap()),
        }
    }

    /// Puts into the store what the API would refuse, as one that knew less may have left it.
    pub fn plant(&self, key: &str, object: &Value) {
        let ops = vec![Op::put(key, object.to_string())];
        self.threads.block_on(self.store.txn(Txn { compares: Vec::new(), ops })).unwrap();
    }

    /// The reasons of all Events.
    pub fn told(&self) -> Vec<String> {
        let events = self.send("GET", "/api/v1/events", "application/json", &Value::Null);
        let reasons = events["items"].as_array().unwrap().iter().map(|event| event["reason"].as_str().unwrap());
        reasons.map(str::to_owned).collect()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
