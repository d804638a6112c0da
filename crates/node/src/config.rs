//! The agent's configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What an agent is told. The pod CIDR isn't among it: that comes with the Node object (`spec.podCIDRs`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    pub node_name: String,
    /// The node's addresses, primary family first.
    pub node_ips: Vec<IpAddr>,
    /// Labels beyond those every node has (a zone, say).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub cluster_domain: String,
    pub cluster_dns: Vec<IpAddr>,
    /// Routed to `gateways`, so that packets the node itself sends to a ClusterIP have a way out of the routing table
    /// and meet the proxy's output hook.
    #[serde(default)]
    pub service_cidrs: Vec<IpNet>,
    /// The next hop on the uplink, one per family.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The link that leads to the other nodes.
    pub uplink: String,
    /// Kept over restarts of the agent: pods' files, logs, addresses.
    pub state_dir: PathBuf,
    /// The unix socket on which kubelet's HTTP paths are served.
    pub kubelet_listener: PathBuf,
    pub max_pods: u32,
    /// How many processes and threads a container may have.
    #[serde(default = "pids_limit")]
    pub pids_limit: u32,
    /// The node's own resolver configuration, for `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// The node's hosts file, for pods on its network.
    pub hosts_file: PathBuf,
    /// As shown in the Node's `containerRuntimeVersion`: `portolan://0.1.0`.
    pub container_runtime: String,
    /// The node's DNS process, when it has one.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
}

/// The DNS process whose endpoint the agent publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsConfig {
    /// Where it says whether it's ready: `GET /ready` answers 200.
    pub ready: SocketAddr,
    pub namespace: String,
    pub service: String,
}

impl DnsConfig {
    /// `kube-system/kube-dns`, ready port 8181 on loopback.
    pub fn kube_dns() -> Self {
        DnsConfig {
            ready: SocketAddr::from(([127, 0, 0, 1], 8181)),
            namespace: "kube-system".to_owned(),
            service: "kube-dns".to_owned(),
        }
    }
}

/// Enough for what people run in a container, and few enough that several fork bombs leave the machine usable.
fn pids_limit() -> u32 {
    const MOST: u32 = 4096;
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u32>().ok();
    let files = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
    files.into_iter().filter_map(number).map(|most| most / 8).fold(MOST, u32::min).max(64)
}

impl Config {
    /// Defaults for everything but the names and addresses.
    pub fn new(node_name: &str, node_ips: Vec<IpAddr>, state_dir: PathBuf) -> Self {
        Config {
            node_name: node_name.to_owned(),
            node_ips,
            labels: BTreeMap::new(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: Vec::new(),
            service_cidrs: Vec::new(),
            gateways: Vec::new(),
            uplink: "eth0".to_owned(),
            kubelet_listener: state_dir.join("kubelet.sock"),
            state_dir,
            max_pods: 110,
            pids_limit: pids_limit(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hosts_file: PathBuf::from("/etc/hosts"),
            container_runtime: concat!("portolan://", env!("CARGO_PKG_VERSION")).to_owned(),
            dns: None,
        }
    }

    /// Where a pod's volumes and managed files are.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.state_dir.join("pods").join(uid)
    }

    /// The mount below which volumes in memory are, by pod. It's there from the first such volume on.
    pub fn memory_dir(&self) -> PathBuf {
        self.state_dir.join("memory")
    }

    /// Where a pod's volumes are.
    pub fn volumes(&self, uid: &str) -> crate::volumes::Places {
        crate::volumes::Places { disk: self.pod_dir(uid).join("volumes"), memory: self.memory_dir().join(uid) }
    }

    /// Where the logs of a pod's containers are, one directory each, one file a run.
    pub fn log_dir(&self, pod: &crate::pod::PodKey) -> PathBuf {
        self.state_dir.join("logs").join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }
}
