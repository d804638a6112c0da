//! A Portolan system on this machine: its data directory, the lock on it, what runs, and what a crash may have left.
//!
//! `--data-dir` names a system for every command. Not responsible for starting anything.

mod cgroups;
mod data_dir;
pub mod forwarding;
mod host_table;
mod owner;
mod port_holder;
mod record;
mod remains;
mod socket_path;

pub use data_dir::{DataDir, Lock};
pub use host_table::HostTable;
pub use owner::{Owner, default_data_dir};
pub use port_holder::PortHolder;
pub use record::{NodeRecord, Record};
pub use remains::{Process, clear};
pub use socket_path::SocketPath;
