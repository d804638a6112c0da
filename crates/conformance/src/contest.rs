//! The original control plane and ours, side by side, each with some of its controllers. Not responsible for what they are
//! asked to do.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use apiserver::{ApiServer, AsyncReadWrite, NodeDialer};
use async_trait::async_trait;
use conformance::{ADDRESS, Originals};
use controllers::Controllers;
use serde_json::Value;
use store::{Embedded, Options};
use tokio_util::sync::CancellationToken;

use crate::side::Side;

const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// Which controllers run on either side.
pub struct Setup {
    /// By kube-controller-manager's names.
    pub original_controllers: &'static str,
    pub our_controllers: &'static [&'static str],
    /// Of kube-controller-manager.
    pub flags: Vec<String>,
    pub max_endpoints_per_slice: usize,
}

/// Both sides at work.
pub struct Contest {
    pub original: Side,
    pub ours: Side,
    controllers: Controllers,
}

/// Starts the original's programs. Blocks; to be called from the main thread, which they must not outlive.
pub fn originals(setup: &Setup) -> Result<Originals> {
    let range = format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(","));
    // What would add to pods, or taint nodes, is not compared here.
    let admission =
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds,Priority";
    let mut originals = Originals::start(&[&range, admission])?;
    let controllers = format!("--controllers={}", setup.original_controllers);
    let mut flags = vec![range.as_str(), &controllers];
    flags.extend(setup.flags.iter().map(String::as_str));
    originals.controller_manager(&flags)?;
    Ok(originals)
}

impl Contest {
    pub async fn start(originals: &Originals, setup: &Setup) -> Result<Self> {
        let service_cidrs = SERVICE_CIDRS.iter().map(|cidr| cidr.parse()).collect::<Result<_, _>>()?;
        let config = apiserver::Config {
            service_cidrs,
            node_port_range: 30000..=32767,
            advertise: (ADDRESS, 6443).into(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let store = Embedded::in_memory(Options::default()).context("opening the store")?;
        let server = ApiServer::new(Arc::new(store), config, Arc::new(NoNodes))?;
        server.bootstrap().await.map_err(|status| anyhow!("the first objects: {}", status.message))?;
        let client = kube::Client::new(server.service(), "default");
        let config =
            controllers::Config { max_endpoints_per_slice: setup.max_endpoints_per_slice, ..Default::default() };
        let token = CancellationToken::new();
        let controllers = controllers::start_some(client.clone(), config, setup.our_controllers, &token);
        controllers.readiness().wait().await;
        let original = Side::new("the original", originals.client().await?);
        Ok(Contest { original, ours: Side::new("ours", client), controllers })
    }

    /// Whether nothing that is watched has changed in a namespace on either side for so long.
    pub fn still_for(&self, namespace: &str, time: Duration) -> bool {
        let sides = [&self.original, &self.ours];
        sides.iter().all(|side| side.changed(namespace).is_none_or(|at| at.elapsed() >= time))
    }

    pub fn sound(&self) -> Result<()> {
        self.original.sound()?;
        self.ours.sound()
    }

    pub async fn stop(self) -> Result<()> {
        Ok(self.controllers.stop().await?)
    }
}

/// The lines in which two values differ, as pretty JSON: `-` the original, `+` ours.
pub fn difference(original: &Value, ours: &Value) -> String {
    let mut text = String::new();
    differ("", original, ours, &mut text);
    text
}

fn differ(path: &str, original: &Value, ours: &Value, text: &mut String) {
    match (original, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let none = &Value::Null;
                let (a, b) = (a.get(key).unwrap_or(none), b.get(key).unwrap_or(none));
                differ(&format!("{path}/{key}"), a, b, text);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for gone in a.iter().filter(|entry| !b.contains(entry)) {
                let _ = writeln!(text, "  {path} - {gone}");
            }
            for new in b.iter().filter(|entry| !a.contains(entry)) {
                let _ = writeln!(text, "  {path} + {new}");
            }
            if a != b && a.len() != b.len() {
                let _ = writeln!(text, "  {path} - has {}, + has {}", a.len(), b.len());
            }
        }
        (a, b) if a == b => {}
        (a, b) => {
            let _ = writeln!(text, "  {path} - {a} + {b}");
        }
    }
}

/// A cluster without nodes' agents.
struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>> {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no node {node}")))
    }
}
