//! The nftables mode: one table per IP family with a fixed set of rules, in which Services are elements of shared maps.
//! `layout` is what the table looks like, `plan` how it gets there, `apply` the only part that touches the kernel. Not
//! responsible for Service semantics: a ForwardingTable already has all results.

mod apply;
mod edit;
mod layout;
mod mark;
mod plan;
mod slots;
mod state;

pub use apply::{BackendError, Nftables};
pub use layout::{TABLE_NAME, table};
pub use plan::{Desired, NftPlan};
pub use state::Observed;
