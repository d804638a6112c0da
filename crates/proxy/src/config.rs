//! What a proxy can be told, and kube-proxy's file that tells it. Where the file comes from, and the flags, are the
//! caller's.

pub mod decode;
pub mod duration;
pub mod file;
pub mod reach;
pub mod settings;
pub mod validate;
pub mod write;

use std::net::SocketAddr;

use service_model::NodePortAddresses;

#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name in the API.
    pub node_name: String,
    /// Where /healthz and /livez answer; nowhere if absent. kube-proxy's default is 0.0.0.0:10256.
    pub health_address: Option<SocketAddr>,
    pub node_port_addresses: NodePortAddresses,
    /// Masquerade everything sent to cluster IPs.
    pub masquerade_all: bool,
}

impl Config {
    pub fn for_node(node_name: impl Into<String>) -> Config {
        Config {
            node_name: node_name.into(),
            health_address: Some(SocketAddr::from(([0, 0, 0, 0], 10_256))),
            node_port_addresses: NodePortAddresses::AllLocal,
            masquerade_all: false,
        }
    }
}
