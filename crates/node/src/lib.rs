//! The node agent: pods from the API become running pods, probed and reported.
//!
//! It watches the pods bound to its node and gives each a worker (`pod`), which decides by pure functions and asks a
//! `PodRuntime` to act; it registers the node and keeps its Lease (`registration`), wires pods to the network
//! (`network`), and serves kubelet's HTTP paths (`server`). Not responsible for Services (the proxy), names (the DNS
//! process) nor for how containers come to run (the runtime).

mod admission;
mod agent;
mod backoff;
mod clock;
mod config;
mod container;
mod dns_endpoint;
mod error;
mod events;
mod farewell;
mod hosts;
mod logs;
pub mod network;
pub mod pod;
mod probe;
mod registration;
mod resolv;
mod resources;
mod server;
mod source_watch;
mod sysctl;
#[cfg(test)]
mod testing;
mod usage;
mod volumes;

pub use agent::{Stop, run};
pub use config::{Config, DnsConfig};
pub use error::Error;
