//! What tests of the Service proxy's modes share: a node with pods, neighbours and strangers as network namespaces, real
//! packets, and the packet table sent through it. For tests only. Not responsible for any mode, nor for what ought to
//! happen: `proxy::battery` says that.
#![allow(clippy::unwrap_used)]

mod ask;
mod rig;
mod serve;
mod table;
mod witness;

pub use rig::{Rig, namespace};
pub use table::{Tally, every_case, every_case_by, holds, playable, protocols, settle};
