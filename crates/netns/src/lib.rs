//! Network namespaces and what is in them: links, addresses, routes, sockets, sysctls.
//!
//! Everything here works on a namespace other than the caller's own by doing the namespace-bound step on a thread made
//! for it (`setns(2)` is per thread), so no caller's thread ever changes its namespace. Not responsible for which
//! links exist or how they are addressed: the node and the supervisor decide that.

#![allow(unsafe_code)]

mod error;
mod links;
mod namespace;
mod routes;
pub mod sysctl;
mod tun;

pub use error::Error;
pub use links::{LinkName, Links};
pub use namespace::NetNs;
pub use routes::{Route, RouteKind};
pub use tun::Tun;
