//! The API server that the node's proxy watches, at the node's own loopback address, and the table's objects in it. Not
//! responsible for what follows from them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use conformance::{Originals, Ours};
use kube::Client;
use proxy::battery::World;
use proxy::battery::table::{SERVICE_CIDRS, Setup, Stage};
use proxy_rig::Rig;
use serde_json::{Value, json};
use service_model::{IpFamily, NodeView};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const PORT: u16 = 6443;
/// How long what is refused is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
const NAMESPACES: &str = "/api/v1/namespaces";
const NODE: &str = "/api/v1/nodes/here";
const SERVICES: &str = "/api/v1/namespaces/table/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/table/endpointslices";

pub enum Cluster {
    Ours(Box<Ours>, Client),
    /// The real one is in this process's namespace.
    Real {
        client: Client,
        kubeconfig: PathBuf,
        directory: PathBuf,
        _relay: JoinSet<()>,
    },
}

impl Cluster {
    pub async fn start(rig: &Rig, originals: Option<&Originals>) -> Result<Cluster> {
        let listener = rig.node.run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)))??;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let Some(originals) = originals else {
            let ours = Ours::start_at(listener, &SERVICE_CIDRS).await?;
            let client = Client::new(ours.server().service(), "default");
            return Ok(Cluster::Ours(Box::new(ours), client));
        };
        let (kubeconfig, directory) = (originals.kubeconfig(), originals.directory().to_owned());
        let mut relaying = JoinSet::new();
        relaying.spawn(relay(listener));
        Ok(Cluster::Real { client: originals.client().await?, kubeconfig, directory, _relay: relaying })
    }

    pub fn client(&self) -> &Client {
        match self {
            Cluster::Ours(_, client) | Cluster::Real { client, .. } => client,
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Cluster::Ours(ours, _) => ours.kubeconfig(),
            Cluster::Real { kubeconfig, .. } => kubeconfig.clone(),
        }
    }

    /// For the proxy's files.
    pub fn directory(&self) -> &Path {
        match self {
            Cluster::Ours(ours, _) => ours.directory(),
            Cluster::Real { directory, .. } => directory,
        }
    }

    pub async fn populate(&self, stage: &Stage) -> Result<()> {
        let client = self.client();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "table"}});
        // The real server still has it from the stage before.
        create(client, NAMESPACES, &namespace).await?;
        create(client, "/api/v1/nodes", &node_object(&stage.node())).await?;
        let addresses = IpFamily::BOTH.map(World::new);
        let addresses: Vec<Value> =
            addresses.iter().map(|world| json!({"type": "InternalIP", "address": world.node_address})).collect();
        send(client, "PATCH", &format!("{NODE}/status"), &json!({"status": {"addresses": addresses}})).await?;
        for object in stage.objects() {
            add(client, &object).await?;
        }
        Ok(())
    }

    /// Removes the stage's objects: the next one may have the same server.
    pub async fn clear(&self) -> Result<()> {
        send(self.client(), "DELETE", SLICES, &json!({})).await?;
        send(self.client(), "DELETE", SERVICES, &json!({})).await?;
        Ok(())
    }
}

/// Passes connections on to this namespace's API server.
async fn relay(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).await {
                // Whoever ends it, and however: the others see it end.
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// Adds one of the table's objects. The server itself has made the Service range.
pub async fn add(client: &Client, object: &Value) -> Result<()> {
    let name = name(object);
    match object["kind"].as_str() {
        Some("Service") => {
            let mut object = object.clone();
            let status = object["status"].take();
            object.as_object_mut().context("an object")?.remove("status");
            create(client, SERVICES, &object).await?;
            if !status.is_null() {
                let path = format!("{SERVICES}/{name}/status");
                send(client, "PATCH", &path, &json!({ "status": status })).await?;
            }
        }
        Some("EndpointSlice") => create(client, SLICES, object).await?,
        _ => {}
    }
    Ok(())
}

/// Removes one of them, if it's there.
pub async fn remove(client: &Client, object: &Value) -> Result<()> {
    let path = path(object);
    accept(send(client, "DELETE", &path, &json!({})).await, 404).with_context(|| format!("DELETE {path}"))
}

/// Changes one of them.
pub async fn patch(client: &Client, object: &Value, patch: &Value) -> Result<()> {
    accept(send(client, "PATCH", &path(object), patch).await, 404)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn path(object: &Value) -> String {
    let of_kind = if object["kind"] == "Service" { SERVICES } else { SLICES };
    format!("{of_kind}/{}", name(object))
}

/// A node port of a Service that has just been removed may not be free at once: then it's tried again.
async fn create(client: &Client, path: &str, object: &Value) -> Result<()> {
    let begun = Instant::now();
    loop {
        match send(client, "POST", path, object).await {
            Err(kube::Error::Api(status)) if status.code == 422 && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            sent => return accept(sent, 409),
        }
    }
}

fn accept(sent: Result<Value, kube::Error>, code: u16) -> Result<()> {
    match sent {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn node_object(node: &NodeView) -> Value {
    // Also where nobody is to know them: then the proxy isn't told to look here.
    let ranges = Setup::Usual.node().pod_cidrs;
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": {(service_model::ZONE_LABEL): node.zone}},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
    })
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    client.request(request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?).await
}
