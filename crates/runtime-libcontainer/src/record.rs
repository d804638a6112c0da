//! The runtime's own files: one per pod, one per container.
//!
//! Not responsible for the files shared with shims (`shim::record`).

use std::io;
use std::net::IpAddr;
use std::path::Path;

use pod_runtime::{ContainerId, ContainerSpec, SandboxId, SandboxSpec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) const SANDBOX: &str = "sandbox.json";
pub(crate) const CONTAINER: &str = "container.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) spec: SandboxSpec,
    pub(crate) phase: SandboxPhase,
    pub(crate) addresses: Vec<IpAddr>,
    /// Unix seconds.
    pub(crate) created_at: i64,
}

/// What is to become, or has become, of a sandbox. Whether it is ready the kernel has a say in too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxPhase {
    Making,
    Ready,
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) sandbox: SandboxId,
    /// Digest of the image's configuration.
    pub(crate) image_id: String,
    /// `host/path@sha256:…`, of one that was pulled.
    #[serde(default)]
    pub(crate) image_pulled: Option<String>,
    pub(crate) spec: ContainerSpec,
}

/// What the file says; nothing when there's none, or when it is no use (a machine's crash may leave it empty): then what
/// it was about is swept like everything else that isn't on record, instead of stopping the runtime.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match shim::record::read(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::warn!(path = %path.display(), %error, "an unreadable record counts as none");
            Ok(None)
        }
        other => other,
    }
}
