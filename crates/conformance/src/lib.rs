//! The originals as judges of ours: a real etcd, kube-apiserver, kube-controller-manager and kube-proxy in a network of
//! their own, and our API server beside them, for whoever compares or measures; and the comparisons.
//!
//! Not responsible for getting the programs: `cargo xtask peers` builds them.

mod alone;
pub mod api;
pub mod cases;
pub mod difference;
pub mod kubectl;
mod originals;
mod ours;
pub mod step;

pub use alone::enter_own_network;
pub use originals::{Originals, Program, program};
pub use ours::Ours;

use std::net::Ipv4Addr;

/// The address that the programs take for the machine's own, in the network made by `enter_own_network`.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The same on both sides, so that answers can be compared.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
