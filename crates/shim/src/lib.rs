//! The processes that run containers: one shim per container, one helper per exec, one init per node. They are this
//! very executable run again, and single-threaded: libcontainer clones without exec, which deadlocks sooner or later
//! in a process whose other threads hold the allocator's lock.
//!
//! The only user of libcontainer. Not responsible for what is run, in which namespaces, with which image: that is in
//! the files a runtime leaves for these processes (`record`), and in a node's `NodeInitConfig`.

pub mod cgroup;
mod container;
mod exec;
mod executor;
mod log_file;
mod log_pump;
pub mod loopback;
pub mod node_init;
mod overlay;
mod parts;
mod process;
pub mod record;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use node_init::{Bind, Child, LIFELINE_END, LIFELINE_GO, NodeInitConfig, NodeReady, OnExit};
pub use process::ProcessIdentity;

/// `argv[1]` of a container's shim; `argv[2]` is the container's directory.
pub const SHIM: &str = "__shim";
/// `argv[1]` of an exec; `argv[2]` is the container's directory, `argv[3]` the exec's.
pub const EXEC: &str = "__exec";
/// `argv[1]` of a node's init; `argv[2]` is a file with its `NodeInitConfig`; `argv[3]`, if there, a file to keep open.
pub const NODE_INIT: &str = "__node-init";

/// Runs the process these arguments (with the program's name in front) ask for; `None` when they mean none of ours.
/// To be called from `main` before any thread or runtime exists.
pub fn dispatch(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.into_iter().take(4).collect();
    let command = args.get(1)?.to_str()?;
    let path = |index: usize| args.get(index).map(Path::new);
    match (command, path(2), path(3)) {
        (SHIM, Some(container), _) => Some(container::run(container)),
        (EXEC, Some(container), Some(exec)) => Some(exec::run(container, exec)),
        (NODE_INIT, Some(config), keep) => Some(node_init::run(config, keep)),
        (SHIM | EXEC | NODE_INIT, _, _) => {
            eprintln!("{command}: missing argument");
            Some(ExitCode::from(2))
        }
        _ => None,
    }
}

/// An error with everything that led to it, for a message that leaves the process.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
