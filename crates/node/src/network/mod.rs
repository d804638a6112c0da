//! The node's part of the pod network: addresses out of the node's pod CIDRs, a veth pair per pod, routes to the other
//! nodes. No bridge: each pod is a /32 (or /128) route to its own link, so nothing depends on br_netfilter.
//!
//! Not responsible for Services, masquerade or policy (the proxy).

mod host_ports;
mod ipam;
mod nodes;
mod pods;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use ipam::{Ipam, IpamError};
pub use nodes::{pod_cidrs, watch_nodes};
pub use pods::NodeNetwork;

/// A failed step on the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Netns(#[from] netns::Error),
    #[error(transparent)]
    Ipam(#[from] IpamError),
    #[error("cannot keep {path}: {source}")]
    State { path: PathBuf, source: io::Error },
    #[error("cannot lead the node's ports to pods: {0}")]
    HostPorts(#[source] nft::NftError),
    #[error("the node has no pod CIDR yet (Node.spec.podCIDR)")]
    NoCidr,
}

/// The address of a pod CIDR that the node itself has on every pod's link: the first.
pub fn gateway(cidr: IpNet) -> IpAddr {
    match cidr {
        IpNet::V4(net) => IpAddr::V4(u32::from(net.network()).saturating_add(1).into()),
        IpNet::V6(net) => IpAddr::V6(u128::from(net.network()).saturating_add(1).into()),
    }
}

/// A file that is read whole and replaced whole; none, or one that can't be read, is the default.
fn load<T: DeserializeOwned + Default>(path: &Path) -> T {
    match std::fs::read(path).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            tracing::warn!(%error, path = %path.display(), "unreadable, starting over");
            T::default()
        }
        Err(_) => T::default(),
    }
}

fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::State { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let next = path.with_extension("next");
    std::fs::write(&next, bytes).map_err(failed)?;
    std::fs::rename(&next, path).map_err(failed)
}
