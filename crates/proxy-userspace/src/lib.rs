//! The userspace mode: nf_tables leads a frontend's packets to a listener of this process, which relays them to an
//! endpoint, another one if the first does not answer. Without the privilege to write rules, Services at loopback
//! addresses are listened on directly. `layout` is what the table looks like, `plan` how rules and listeners get there,
//! `apply` and `doors` the parts that touch the kernel, [`relay`] what moves the bytes. Not responsible for Service
//! semantics: a ForwardingTable already has all results.

mod apply;
mod compile;
mod doors;
mod layout;
mod list;
mod plan;
pub mod relay;
mod state;

pub use apply::{BackendError, Userspace};
pub use layout::{TABLE_NAME, table};
pub use plan::{Desired, UserspacePlan};
pub use state::Observed;
