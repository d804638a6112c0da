//! What those outside the agent ask about its pods: where a pod's network is (`portolan run`), which images are used
//! (`portolan image rm`).
//!
//! Reads the runtime's files and changes nothing, so it works beside a running agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pod_runtime::SandboxNetwork;

use crate::layout::Layout;
use crate::namespaces::Kind;
use crate::record::{CONTAINER, ContainerRecord, SANDBOX, SandboxPhase, SandboxRecord};

/// A container that was made from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// Digest of the image's configuration.
    pub image_id: String,
    pub container: String,
    pub namespace: String,
    pub pod: String,
}

/// The file that pins the network namespace of the pod with this uid; none when it has no ready one of its own. The
/// pin is a mount: only in the node's mount namespace is it more than an empty file.
pub fn network_pin(state_dir: &Path, pod_uid: &str) -> io::Result<Option<PathBuf>> {
    let layout = Layout::new(state_dir);
    let entries = match fs::read_dir(layout.sandboxes()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for entry in entries {
        let record = match fs::read(entry?.path().join(SANDBOX)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let Ok(record) = serde_json::from_slice::<SandboxRecord>(&record) else { continue };
        let ready = record.phase == SandboxPhase::Ready && record.spec.network == SandboxNetwork::Pod;
        let pin = Kind::Net.pin(&layout.namespaces(&record.spec.id));
        // A sandbox that ended with its node still has its record beside its successor's, but no pin.
        if record.spec.uid == pod_uid && ready && pin.exists() {
            return Ok(Some(pin));
        }
    }
    Ok(None)
}

/// The containers of a node, with their images.
pub fn image_users(state_dir: &Path) -> io::Result<Vec<ImageUser>> {
    let layout = Layout::new(state_dir);
    let containers = match fs::read_dir(layout.containers()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut users = Vec::new();
    for entry in containers.flatten() {
        // One that is just being made or removed has no record.
        let Ok(record) = fs::read(entry.path().join(CONTAINER)) else { continue };
        let Ok(record) = serde_json::from_slice::<ContainerRecord>(&record) else { continue };
        let pod = fs::read(layout.sandbox(&record.sandbox).join(SANDBOX)).ok();
        let pod = pod.and_then(|pod| serde_json::from_slice::<SandboxRecord>(&pod).ok());
        let (namespace, pod) = pod.map(|pod| (pod.spec.namespace, pod.spec.name)).unwrap_or_default();
        users.push(ImageUser { image_id: record.image_id, container: record.spec.name, namespace, pod });
    }
    Ok(users)
}
