//! Cgroup directories outlive their processes: the one thing the kernel doesn't clean up after a crash.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use shim::cgroup;

/// A process that was killed keeps its cgroup busy until it's wholly gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes a cgroup (`portolan/<id>`) with its children from every hierarchy, and its parent when that is left empty.
pub async fn sweep(cgroup: &str) -> Result<()> {
    let group = Path::new("/").join(cgroup);
    let shown = group.display().to_string();
    tokio::task::spawn_blocking(move || remove_when_free(&group))
        .await?
        .with_context(|| format!("cannot remove the cgroup {shown}"))
}

fn remove_when_free(group: &Path) -> std::io::Result<()> {
    let begun = Instant::now();
    loop {
        match cgroup::remove_tree(group) {
            // It waits a little itself. A node that is ending removes its own meanwhile.
            Err(e)
                if matches!(e.kind(), ErrorKind::ResourceBusy | ErrorKind::NotFound) && begun.elapsed() < PATIENCE => {}
            Err(e) => return Err(e),
            Ok(()) => break,
        }
    }
    if let Some(parent) = group.parent() {
        // Another system may have its own in there: then it stays.
        cgroup::remove_if_empty(parent);
    }
    Ok(())
}
