//! The processes of a node and how each is configured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proxy::config::settings::Mode;
use serde::{Deserialize, Serialize};

use super::network::Plan;
use super::nodes::{API_SOCKET, EXECUTABLE, IMAGES_PARENT, KUBELET_DIR, NODE_DIR, PULL_SOCKET};
use super::view::DOMAIN;

/// A process of a node: its name, the command that runs it.
pub struct Part {
    pub name: &'static str,
    pub command: &'static str,
    pub environment: &'static [(&'static str, &'static str)],
    /// What tells it that the node ends, if it has something to do then.
    pub end_signal: Option<i32>,
}

/// SIGPWR, an init's word for a power failure (signal(7); the same number on every architecture we build for).
pub const NODE_ENDS: i32 = 30;

/// By default glibc gives each thread an arena of its own, whose free memory no other thread gets, and keeps large blocks
/// once it has seen one freed. A process that has little to do after its first minute has no use for either.
const SPARING: &[(&str, &str)] = &[("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")];

/// In the order they are started.
pub const PARTS: &[Part] = &[
    Part { name: "agent", command: "__agent", environment: &[], end_signal: Some(NODE_ENDS) },
    Part { name: "proxy", command: "__proxy", environment: SPARING, end_signal: None },
    Part { name: "dns", command: "__dns", environment: SPARING, end_signal: None },
];

/// Directories and files of a node's directory.
const AGENT_DIR: &str = "agent";
const RUNTIME_DIR: &str = "runtime";
const RESOLV_CONF: &str = "resolv.conf";
const CLUSTER_RESOLV_CONF: &str = "cluster-resolv.conf";

pub const KUBELET_SOCKET: &str = "kubelet.sock";
const DNS_PORT: u16 = 53;
/// The ports of CoreDNS's `ready` and `prometheus` plugins.
const DNS_READY: u16 = 8181;
const DNS_METRICS: u16 = 9153;
/// Seconds.
const DNS_TTL: u32 = 5;

/// How a node's agent is run.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    pub api_socket: PathBuf,
    /// Where the supervisor takes requests to pull.
    pub pull_socket: PathBuf,
    /// The directory that has the image store in it.
    pub images_parent: PathBuf,
    pub runtime_dir: PathBuf,
    pub cgroup: PathBuf,
    pub executable: PathBuf,
    pub node: node::Config,
}

/// How a node's proxy is run.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proxy {
    pub api_socket: PathBuf,
    pub node_name: String,
    pub mode: Mode,
}

/// How a node's DNS server is run.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    pub api_socket: PathBuf,
    pub dns: dns::Config,
}

/// The configurations of one node's processes.
pub struct Configs {
    agent: Agent,
    proxy: Proxy,
    dns: Dns,
    /// What pods with dnsPolicy Default get: the way to the host's resolvers.
    resolv_conf: String,
    /// What a program gets that is run in the node's network by hand: what a pod of `default` would.
    cluster_resolv_conf: String,
}

impl Configs {
    pub fn new(plan: &Plan, name: &str, index: u32, cgroup: &str, mode: Mode) -> Self {
        let node_dir = Path::new(NODE_DIR);
        let addresses = plan.node(index);
        // What only the node itself asks for needs one address alone: the primary family's.
        let address = addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let cluster_dns = plan.cluster_dns().into_iter().next().into_iter().collect::<Vec<_>>();
        let mut node = node::Config::new(name, addresses.clone(), node_dir.join(AGENT_DIR));
        node.cluster_domain = DOMAIN.to_owned();
        node.cluster_dns.clone_from(&cluster_dns);
        node.service_cidrs = plan.services();
        node.gateways = plan.fabric_addresses();
        node.kubelet_listener = Path::new(KUBELET_DIR).join(KUBELET_SOCKET);
        node.resolv_conf = node_dir.join(RESOLV_CONF);
        node.dns = Some(node::DnsConfig {
            ready: SocketAddr::new(address, DNS_READY),
            namespace: "kube-system".to_owned(),
            service: "kube-dns".to_owned(),
        });
        let agent = Agent {
            api_socket: API_SOCKET.into(),
            pull_socket: PULL_SOCKET.into(),
            images_parent: IMAGES_PARENT.into(),
            runtime_dir: node_dir.join(RUNTIME_DIR),
            cgroup: Path::new("/").join(cgroup).join(name),
            executable: EXECUTABLE.into(),
            node,
        };
        let dns = dns::Config {
            listen: addresses.iter().map(|address| SocketAddr::new(*address, DNS_PORT)).collect(),
            records: dns::Records {
                ttl: DNS_TTL,
                reverse: [plan.pods(), plan.services()].concat(),
                ..dns::Records::of_cluster(dns::Name::parse(DOMAIN).unwrap_or_default())
            },
            transfer_to: Vec::new(),
            upstreams: plan.resolver().map(|resolver| SocketAddr::new(resolver, DNS_PORT)).into_iter().collect(),
            ready: Some(SocketAddr::new(address, DNS_READY)),
            metrics: Some(SocketAddr::new(address, DNS_METRICS)),
        };
        Configs {
            agent,
            proxy: Proxy { api_socket: API_SOCKET.into(), node_name: name.to_owned(), mode },
            dns: Dns { api_socket: API_SOCKET.into(), dns },
            resolv_conf: format!("nameserver {}\n", plan.fabric_address()),
            cluster_resolv_conf: format!(
                "{}search default.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n",
                cluster_dns.iter().map(|address| format!("nameserver {address}\n")).collect::<String>()
            ),
        }
    }

    /// Writes each process's file into the node's directory.
    pub fn write(&self, node_dir: &Path) -> Result<()> {
        for (file, text) in self.encoded()? {
            let path = node_dir.join(file);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether the node's directory has them as they would be written.
    pub fn written(&self, node_dir: &Path) -> Result<bool> {
        Ok(self.encoded()?.into_iter().all(|(file, text)| std::fs::read(node_dir.join(file)).ok() == Some(text)))
    }

    fn encoded(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let files = [
            ("agent.json", serde_json::to_vec_pretty(&self.agent)),
            ("proxy.json", serde_json::to_vec_pretty(&self.proxy)),
            ("dns.json", serde_json::to_vec_pretty(&self.dns)),
            (RESOLV_CONF, Ok(self.resolv_conf.clone().into_bytes())),
            (CLUSTER_RESOLV_CONF, Ok(self.cluster_resolv_conf.clone().into_bytes())),
        ];
        let encode = |(file, text): (&'static str, serde_json::Result<Vec<u8>>)| {
            Ok((file, text.with_context(|| format!("cannot encode {file}"))?))
        };
        files.into_iter().map(encode).collect()
    }
}

/// Where a pod's network namespace is pinned, as its node sees it.
pub fn sandbox_pin(node_dir: &Path, pod_uid: &str) -> Result<Option<PathBuf>> {
    let state = node_dir.join(RUNTIME_DIR);
    let pin = runtime_libcontainer::network_pin(&state, pod_uid).context("cannot read the runtime's records")?;
    let as_node_sees = |pin: PathBuf| Path::new(NODE_DIR).join(pin.strip_prefix(node_dir).unwrap_or(&pin));
    Ok(pin.map(as_node_sees))
}

/// The containers of a node, with their images.
pub fn image_users(node_dir: &Path) -> Result<Vec<runtime_libcontainer::ImageUser>> {
    runtime_libcontainer::image_users(&node_dir.join(RUNTIME_DIR)).context("cannot read the runtime's records")
}

/// A pod's `/etc/resolv.conf`, as the host sees it.
pub fn pod_resolv_conf(node_dir: &Path, pod_uid: &str) -> PathBuf {
    node_dir.join(AGENT_DIR).join("pods").join(pod_uid).join("etc/resolv.conf")
}

/// What a program run in the node's network gets for one.
pub fn node_resolv_conf(node_dir: &Path) -> PathBuf {
    node_dir.join(CLUSTER_RESOLV_CONF)
}
