//! Where a pod's network is, for those who enter it from outside the agent: `portolan run`.
//!
//! Reads the runtime's files and changes nothing, so it works beside a running agent.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pod_runtime::SandboxNetwork;

use crate::layout::Layout;
use crate::namespaces::Kind;
use crate::record::{SANDBOX, SandboxPhase, SandboxRecord};

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
        if record.spec.uid == pod_uid && ready {
            return Ok(Some(Kind::Net.pin(&layout.namespaces(&record.spec.id))));
        }
    }
    Ok(None)
}
