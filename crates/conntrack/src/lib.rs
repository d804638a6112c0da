//! Connection tracking: list flows by a filter, delete one, count them. The network namespace is the calling thread's.
//!
//! Knows no Services: which flows are stale is decided elsewhere.

pub mod error;
pub mod flow;
mod table;

pub use error::ConntrackError;
pub use flow::{Endpoint, Family, Filter, Flow, FlowId, Status, Tuple};
pub use table::Conntrack;
