//! A pod's volumes: which files they hold (pure), and putting them on the node's disk.
//!
//! Files are written once, when the pod starts. Not responsible for mounting them (the runtime binds them).

mod files;
mod write;

pub use files::{plan, references};
pub use write::{ensure_part, remove, write};
