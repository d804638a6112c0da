//! What a proxy can be told, and kube-proxy's file that tells it. Where the file comes from, and the flags, are the
//! caller's.

pub mod decode;
pub mod duration;
pub mod file;
pub mod reach;
pub mod settings;
pub mod validate;
pub mod write;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use service_model::{LocalTraffic, NodePortAddresses};
use tokio::sync::watch;

use self::reach::Reach;

#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name in the API.
    pub node_name: String,
    /// Where /healthz and /livez answer; nowhere if absent. kube-proxy's default is 0.0.0.0:10256.
    pub health_address: Option<SocketAddr>,
    /// Where /metrics and /proxyMode answer; nowhere if absent. kube-proxy's default is 127.0.0.1:10249.
    pub metrics_address: Option<SocketAddr>,
    /// A server that can't listen ends the proxy; otherwise it tries again.
    pub bind_hard_fail: bool,
    pub node_port_addresses: NodePortAddresses,
    /// Takes the place of `node_port_addresses` as soon as the Node is known.
    pub follow: Option<FollowedAddresses>,
    pub local_traffic: LocalTraffic,
    /// Masquerade everything sent to cluster IPs.
    pub masquerade_all: bool,
}

/// Where NodePorts answer, when that depends on addresses that come and go.
#[derive(Clone, Debug)]
pub struct FollowedAddresses {
    pub reach: Reach,
    /// All addresses of this machine, or of the namespace that the proxy is in.
    pub host: watch::Receiver<BTreeSet<IpAddr>>,
    /// Counts as the node's primary address of its family.
    pub bind_address: Option<IpAddr>,
}

impl Config {
    pub fn for_node(node_name: impl Into<String>) -> Config {
        Config {
            node_name: node_name.into(),
            health_address: Some(SocketAddr::from(([0, 0, 0, 0], 10_256))),
            metrics_address: None,
            bind_hard_fail: true,
            node_port_addresses: NodePortAddresses::AllLocal,
            follow: None,
            local_traffic: LocalTraffic::NodeCidrs,
            masquerade_all: false,
        }
    }
}
