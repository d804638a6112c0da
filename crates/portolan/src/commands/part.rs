//! A node's processes: agent, proxy, DNS. Each reads its file, connects to the API by the socket bound into the node,
//! and runs until it's told to end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::block_on;
use crate::modes::{self, ModeOptions};
use crate::up::parts::{Agent, Dns, NODE_ENDS, Proxy};

/// Which process of a node this one is. Nobody types that, and there are three for each node: they do without the
/// command line's parser.
pub enum Part {
    Agent(PathBuf),
    Proxy(PathBuf),
    Dns(PathBuf),
}

impl Part {
    pub fn of(mut args: impl Iterator<Item = OsString>) -> Option<Self> {
        let part = match args.nth(1)?.to_str()? {
            "__agent" => Part::Agent,
            "__proxy" => Part::Proxy,
            "__dns" => Part::Dns,
            _ => return None,
        };
        Some(part(args.next()?.into()))
    }

    /// Runs until it is told to end.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Part::Agent(config) => block_on(agent(&config)),
            Part::Proxy(config) => block_on(proxy(&config)),
            Part::Dns(config) => block_on(dns(&config)),
        }
    }
}

async fn agent(config: &Path) -> Result<ExitCode> {
    let config: Agent = read(config)?;
    let stop = node::Stop { agent: until_terminated()?, node: CancellationToken::new() };
    until_node_ends(&stop)?;
    let client = ::runtime::transport::unix(&config.api_socket);
    let images = images::ImageStore::open(&config.images_parent, Some(config.executable.clone()));
    let images = images.context("cannot open the images")?;
    let network = node::network::NodeNetwork::open(&config.node.state_dir);
    let network = Arc::new(network.context("cannot prepare the pods' network")?);
    let runtime = runtime_libcontainer::Runtime::open(runtime_libcontainer::Config {
        state_dir: config.runtime_dir,
        images,
        puller: Some(images::registry::RemotePuller::new(config.pull_socket)),
        cgroup_parent: config.cgroup,
        network: network.clone(),
        private_mounts: vec![config.node.memory_dir()],
        executable: config.executable,
    });
    let runtime = runtime.await.context("cannot open the container runtime")?;
    node::run(client, config.node, Arc::new(runtime), Some(network), stop).await.context("the agent ended")?;
    Ok(ExitCode::SUCCESS)
}

async fn proxy(config: &Path) -> Result<ExitCode> {
    let config: Proxy = read(config)?;
    let stop = until_terminated()?;
    let client = ::runtime::transport::unix(&config.api_socket);
    let opened = modes::open(config.mode, &ModeOptions::default())?;
    if let Some(why) = &opened.instead {
        tracing::warn!(asked = config.mode.name(), mode = opened.mode.name(), %why, "another mode takes its place");
    }
    let mut setup = proxy::Setup::new(client, proxy::Config::for_node(config.node_name), opened.mode);
    setup.asked = opened.asked.name();
    setup.replaces = modes::left_behind(setup.mode.name(), &[]);
    // Nobody changes its configuration.
    let (_, orders) = mpsc::channel(1);
    proxy::serve(setup, orders, proxy::Status::default(), stop).await.context("the proxy ended")?;
    Ok(ExitCode::SUCCESS)
}

async fn dns(config: &Path) -> Result<ExitCode> {
    let config: Dns = read(config)?;
    let stop = until_terminated()?;
    let client = ::runtime::transport::unix(&config.api_socket);
    dns::run(client, config.dns, stop).await.context("the DNS server ended")?;
    Ok(ExitCode::SUCCESS)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is malformed", path.display()))
}

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn until_terminated() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let cancelled = stop.clone();
    // Lives as long as the process does.
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}

/// Cancels both when the node's init says that the node ends.
fn until_node_ends(stop: &node::Stop) -> Result<()> {
    let mut word = signal(SignalKind::from_raw(NODE_ENDS)).context("cannot listen for signals")?;
    let stop = stop.clone();
    // Lives as long as the process does.
    tokio::spawn(async move {
        word.recv().await;
        stop.node.cancel();
        stop.agent.cancel();
    });
    Ok(())
}
