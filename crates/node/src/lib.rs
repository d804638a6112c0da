//! The node agent: pods from the API become running pods, probed and reported.
//!
//! It watches the pods bound to its node and gives each a worker (`pod`), which decides by pure functions and asks a
//! `PodRuntime` to act; it registers the node and keeps its Lease (`registration`), wires pods to the network
//! (`network`), and serves kubelet's HTTP paths (`server`). Not responsible for Services (the proxy), names (the DNS
//! process) nor for how containers come to run (the runtime).

mod backoff;
mod clock;
mod config;
mod container;
mod error;
mod events;
mod hosts;
pub mod pod;
mod probe;
mod resolv;
#[cfg(test)]
mod testing;
mod volumes;

pub use config::{Config, DnsConfig};
pub use error::Error;
