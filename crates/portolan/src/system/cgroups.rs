//! Cgroup directories outlive their processes: the one thing the kernel doesn't clean up after a crash.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// A process that was killed keeps its cgroup busy until it's wholly gone.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Removes a cgroup (`portolan/<id>`) with its children from every hierarchy, and its parent when that is left empty.
pub async fn sweep(cgroup: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let top = hierarchy.join(cgroup);
        if top.is_dir() {
            remove_when_free(&top).await.with_context(|| format!("cannot remove the cgroup {}", top.display()))?;
        }
        if let Some(parent) = top.parent().filter(|p| *p != hierarchy && p.is_dir()) {
            // Another system may have its own in there: then it stays.
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// Where cgroups may be: the root itself (cgroup 2) and each directory below it (cgroup 1, hybrid).
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from(ROOT)];
    let entries = match fs::read_dir(ROOT) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {ROOT}"))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {ROOT}"))?;
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

async fn remove_when_free(cgroup: &Path) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match remove(cgroup) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            // A node that is ending removes its own.
            Err(e) if e.kind() == io::ErrorKind::NotFound && cgroup.exists() => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

fn remove(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
