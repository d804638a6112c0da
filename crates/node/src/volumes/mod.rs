//! A pod's volumes: which files they hold (pure), putting them on the node's disk or into its memory, and bringing them
//! up to date when the objects they are made from change.
//!
//! Not responsible for mounting them into containers (the runtime binds them).

mod files;
mod memory;
mod part;
mod versions;
mod write;

pub use files::{VolumePlan, follows_metadata, is_read_only, plan, references};
pub use part::ensure_part;
pub use write::{Places, refresh, remove, write};
