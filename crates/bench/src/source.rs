//! The API server that proxies under measurement watch: in this process, in a network namespace of its own, with a store
//! on disk. Starts those proxies, ours and the original. Not responsible for what objects it holds beyond one Node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use apiserver::pki::{self, Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer};
use kube::Client;
use netns::NetNs;
use serde_json::{Value, json};
use store::embedded::{Embedded, Options as StoreOptions};
use testkit::Temporary;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::lab::{self, event_loop};
use crate::objects::create;
use crate::peers;
use crate::process::{Process, portolan};

/// The one Node, which all proxies are of.
pub const NODE: &str = "n1";
/// Where the Node's pods are.
pub const POD_CIDR: &str = "10.244.1.0/24";
/// Where the API is, in each namespace that it is served in.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 6443);

/// What a proxy programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Mode {
    Nftables,
    /// By the tools on nf_tables.
    Iptables,
    /// By those on the kernel's older tables.
    IptablesLegacy,
    /// Relayed by the process itself; kube-proxy has no such mode any more.
    Userspace,
}

pub struct Source {
    pub threads: Runtime,
    pub client: Client,
    scratch: Temporary,
    socket: PathBuf,
    kubeconfig: PathBuf,
    server: ApiServer,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
}

impl Mode {
    pub fn is_nftables(self) -> bool {
        self == Mode::Nftables
    }

    /// Its name with the tools it uses.
    pub fn label(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables-nft",
            Mode::IptablesLegacy => "iptables-legacy",
            Mode::Userspace => "userspace",
        }
    }

    /// What both proxies' configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables | Mode::IptablesLegacy => "iptables",
            Mode::Userspace => "userspace",
        }
    }

    /// kube-proxy has it, too.
    pub fn has_original(self) -> bool {
        self != Mode::Userspace
    }

    /// Runs iptables' tools.
    pub fn is_iptables(self) -> bool {
        matches!(self, Mode::Iptables | Mode::IptablesLegacy)
    }
}

impl Source {
    /// Starts the server and makes the Node.
    pub fn start() -> Result<Source> {
        let (namespace, scratch) = (lab::namespace()?, Temporary::new());
        let threads = event_loop(&namespace)?;
        let address = SocketAddr::from(ADDRESS);
        let names = ServerNames {
            addresses: vec![address.ip()],
            names: vec!["localhost".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::in_memory(&names).context("cannot make certificates")?;
        let (socket, kubeconfig) = (scratch.path().join("api.sock"), scratch.path().join("kubeconfig"));
        pki::write(&kubeconfig, &pki.kubeconfig("bench", &format!("https://{address}")))?;
        let tls = apiserver::server_config(&pki)?;
        let stop = CancellationToken::new();
        let (database, at, until) = (scratch.path().join("state.db"), socket.clone(), stop.clone());
        // On a thread of the loop: those are in the namespace, the caller isn't.
        let serving = threads.spawn(async move {
            let server = server(&database).await?;
            let unix = UnixListener::bind(&at).context("cannot serve the API on its socket")?;
            let serving = server.clone();
            tokio::spawn(async move { serving.serve_unix(unix, until).await });
            Ok::<_, anyhow::Error>(server)
        });
        let server = threads.block_on(serving).context("the API server")??;
        let client = {
            // A client lives on the loop it is made in.
            let _threads = threads.enter();
            Client::new(server.service(), "default")
        };
        let source = Source { threads, client, scratch, socket, kubeconfig, server, tls, stop };
        source.make_node()?;
        Ok(source)
    }

    fn make_node(&self) -> Result<()> {
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDR": POD_CIDR}});
        let addressed = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        self.threads.block_on(async {
            create(&self.client, "/api/v1/nodes", &node).await?;
            let path = format!("/api/v1/nodes/{NODE}/status");
            let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
            self.client.request::<Value>(request.body(addressed.to_string().into_bytes())?).await?;
            Ok(())
        })
    }

    /// Starts our proxy in a namespace, told apart from others by its name.
    pub fn ours(&self, namespace: &NetNs, mode: Mode, name: &str) -> Result<Process> {
        let config = json!({"apiSocket": self.socket, "nodeName": NODE, "mode": mode.name()}).to_string();
        let mut command = Command::new(portolan()?);
        command.arg("__proxy").arg(self.scratch.file(&format!("{name}.json"), &config));
        command.env("PORTOLAN_LOG", "warn,proxy=debug");
        command.env("PORTOLAN_IPTABLES", if mode == Mode::IptablesLegacy { "legacy" } else { "nft" });
        // As a node's init starts it.
        command.envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")]);
        Process::start(namespace, command, &self.scratch.path().join(format!("{name}.log")))
    }

    /// Starts the real kube-proxy in a namespace that the API is served in.
    pub fn original(&self, program: &Path, namespace: &NetNs, mode: Mode, name: &str) -> Result<Process> {
        peers::kube_proxy(program, namespace, &self.kubeconfig, &self.scratch, mode, name)
    }

    /// Serves the API at its address in one more namespace.
    pub fn serve_in(&self, namespace: &NetNs) -> Result<()> {
        let listener = namespace.run(|| std::net::TcpListener::bind(SocketAddr::from(ADDRESS)))?;
        let listener = listener.context("cannot serve the API")?;
        listener.set_nonblocking(true).context("cannot serve the API")?;
        let (server, tls, stop) = (self.server.clone(), self.tls.clone(), self.stop.clone());
        let _threads = self.threads.enter();
        let listener = TcpListener::from_std(listener).context("cannot serve the API")?;
        self.threads.spawn(async move { server.serve_tls(listener, tls, stop).await });
        Ok(())
    }

    pub fn end(self) {
        self.stop.cancel();
        self.threads.shutdown_timeout(Duration::from_secs(5));
    }
}

async fn server(database: &Path) -> Result<ApiServer> {
    let store = Embedded::open(database, StoreOptions::default())?;
    let config = Config {
        service_cidrs: vec!["10.96.0.0/12".parse()?],
        node_port_range: 30_000..=32_767,
        // Nobody goes there; it mustn't be a loopback address.
        advertise: SocketAddr::from(([192, 0, 2, 1], 6443)),
        cluster_domain: "cluster.local".to_owned(),
    };
    let server = ApiServer::new(Arc::new(store), config, Arc::new(Nobody))?;
    server.bootstrap().await.map_err(|status| anyhow!(status.message.clone()))?;
    Ok(server)
}

/// There are no nodes to reach.
struct Nobody;

#[async_trait::async_trait]
impl NodeDialer for Nobody {
    async fn dial(&self, node: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no node {node}")))
    }
}
