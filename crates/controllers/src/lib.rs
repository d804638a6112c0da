//! The controllers: slices, workloads, garbage, namespaces, accounts, scheduling, nodes.
//!
//! Each is a file (or folder) with pure planning functions and a reconciler that executes plans, and one line in
//! [`ALL`]. Not responsible for serving the API or for anything that runs on a node.

mod cluster;
mod conditions;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod garbage;
mod mirroring;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owners;
mod pod_gc;
mod replica_set;
mod scheduler;
mod selector;
mod service_account;
mod service_cidr;
mod taint_eviction;

use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use kube::Client;
use runtime::tasks::TaskError;
use runtime::{Readiness, Tasks, events};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// What the controllers need to know about the cluster.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Config {
    /// Pods' addresses, of which each node gets a part; none means that somebody else assigns them.
    pub cluster_cidr_v4: Option<Ipv4Net>,
    pub cluster_cidr_v6: Option<Ipv6Net>,
    pub node_mask_v4: u8,
    pub node_mask_v6: u8,
    /// The PEM bundle that pods verify the API server with.
    pub root_ca: String,
    /// How long a node may be silent before it counts as lost.
    pub node_grace: Duration,
    /// How long a Node object must be gone before the pods bound to it are deleted.
    pub node_quarantine: Duration,
    /// Endpoints per slice.
    pub max_endpoints_per_slice: usize,
    /// Keep the legacy v1 Endpoints of Services with a selector.
    pub endpoints: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr_v4: None,
            cluster_cidr_v6: None,
            node_mask_v4: 24,
            node_mask_v6: 64,
            root_ca: String::new(),
            node_grace: Duration::from_secs(40),
            node_quarantine: Duration::from_secs(40),
            max_endpoints_per_slice: 100,
            endpoints: true,
        }
    }
}

/// Registers a controller with the cluster's caches and spawns its driver.
type Start = fn(&mut Cluster);

/// Every controller, in the order in which they start.
const ALL: &[(&str, Start)] = &[
    ("namespace", namespace::start),
    ("service-account", service_account::start),
    ("service-cidr", service_cidr::start),
    ("node-ipam", node_ipam::start),
    ("node-lifecycle", node_lifecycle::start),
    ("taint-eviction", taint_eviction::start),
    ("pod-gc", pod_gc::start),
    ("scheduler", scheduler::start),
    ("deployment", deployment::start),
    ("replica-set", replica_set::start),
    ("endpoint-slice", endpoint_slice::start),
    ("endpoints", endpoints::start),
    ("endpoint-slice-mirroring", mirroring::start),
    ("garbage-collector", garbage::start),
];

/// Controllers at work.
pub struct Controllers {
    tasks: Tasks,
    readiness: Readiness,
}

/// Starts every controller. They stop with `token`.
pub fn start(client: Client, config: Config, token: &CancellationToken) -> Controllers {
    start_where(client, config, |_| true, token)
}

/// As `start`, but only the controllers of these names.
pub fn start_some(client: Client, config: Config, names: &[&str], token: &CancellationToken) -> Controllers {
    start_where(client, config, |name| names.contains(&name), token)
}

fn start_where(
    client: Client,
    config: Config,
    wanted: impl Fn(&str) -> bool,
    token: &CancellationToken,
) -> Controllers {
    let mut tasks = Tasks::new(token);
    let readiness = Readiness::default();
    let (recorder, publisher) = events::recorder(client.clone(), "portolan-controllers");
    let mut cluster = Cluster::new(client, config, recorder, readiness.clone());
    for (name, start) in ALL.iter().filter(|(name, _)| wanted(name)) {
        tracing::debug!(controller = name, "registering");
        start(&mut cluster);
    }
    tasks.spawn("events", publisher.run(tasks.token()));
    cluster.spawn(&mut tasks);
    Controllers { tasks, readiness }
}

/// Runs every controller until `token` is cancelled.
pub async fn run(client: Client, config: Config, token: CancellationToken) -> Result<(), TaskError> {
    start(client, config, &token).join().await
}

impl Controllers {
    /// Ready once every cache is in step; `pending` names what is waited for.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Waits for the token's cancellation and the end of every task.
    pub async fn join(self) -> Result<(), TaskError> {
        self.tasks.join().await
    }

    /// Stops every controller.
    pub async fn stop(self) -> Result<(), TaskError> {
        self.tasks.stop().await
    }
}
