//! What ends the agent, by the step that failed. What concerns one pod becomes that pod's Events and status instead.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make {path}: {source}")]
    StateDir { path: PathBuf, source: io::Error },
    #[error("cannot listen on {path}: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot set up the node's network: {0}")]
    Network(#[from] crate::network::NetworkError),
    #[error("cannot list the runtime's sandboxes: {0}")]
    Runtime(#[from] pod_runtime::RuntimeError),
}
