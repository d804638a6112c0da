//! IPVS, the kernel's load balancer: virtual servers, their destinations, and the dummy device that holds the addresses
//! they answer on. A kernel, and a strict fake.
//!
//! Speaks netlink itself: no `ipvsadm` process, no C library. Knows no Kubernetes and makes no policy.

mod device;
mod error;
mod fake;
mod kernel;
mod server;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub use device::{DEVICE, Device};
pub use error::{IpvsError, Reason};
pub use fake::Fake;
pub use kernel::{Kernel, Timeouts};
pub use server::{
    BadScheduler, Destination, DestinationState, Family, Forwarding, Op, Options, Scheduler, Server, ServerKey,
};
pub use wire::understand;

/// The addresses of one family in a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// On our device; none too if it isn't there.
    pub bound: BTreeSet<IpAddr>,
    /// On any other device, loopback and link-local ones left out.
    pub others: BTreeSet<IpAddr>,
    pub device_exists: bool,
}

/// Something that has virtual servers: the kernel of a network namespace, or a fake.
pub trait Ipvs {
    /// The virtual servers of a family, ours and others'.
    fn servers(&mut self, family: Family) -> Result<BTreeMap<ServerKey, Server>, IpvsError>;

    /// A server's destinations; none if the server isn't there.
    fn destinations(&mut self, server: &ServerKey) -> Result<BTreeMap<SocketAddr, DestinationState>, IpvsError>;

    /// Does these one after the other. Each takes effect or not by itself; an error is about the first that didn't.
    fn change(&mut self, ops: &[Op]) -> Result<(), IpvsError>;

    fn addresses(&mut self, family: Family) -> Result<Addresses, IpvsError>;

    /// Gives addresses to our device, which is made if it isn't there.
    fn bind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError>;

    /// Takes addresses from our device; fine if they are gone.
    fn unbind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError>;

    /// Removes our device, and its addresses with it; fine if it isn't there.
    fn remove_device(&mut self) -> Result<(), IpvsError>;
}
