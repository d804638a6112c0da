//! Where things are below the runtime's directory.
//!
//! ```text
//! sandboxes/<id>/sandbox.json      a pod
//! namespaces/<id>/{net,uts,ipc}    its namespaces, pinned by mounts; the directory is a private mount
//! containers/<id>/container.json   a container; beside it the files of `shim::record`
//! writable/<id>/{upper,work}       what it writes; on a tmpfs when the file system is no good for it
//! ```
//!
//! Not responsible for what is in the files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pod_runtime::{ContainerId, RuntimeError, SandboxId};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, mount, mount_bind, mount_change,
};

use crate::failure::io_at;

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(&id.0)
    }

    pub(crate) fn all_namespaces(&self) -> PathBuf {
        self.root.join("namespaces")
    }

    pub(crate) fn namespaces(&self, id: &SandboxId) -> PathBuf {
        self.all_namespaces().join(&id.0)
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(&id.0)
    }

    pub(crate) fn all_writable(&self) -> PathBuf {
        self.root.join("writable")
    }

    pub(crate) fn writable(&self, id: &ContainerId) -> PathBuf {
        self.all_writable().join(&id.0)
    }

    /// Makes the directories and the two mounts. Repeatable.
    pub(crate) fn prepare(&self) -> Result<(), RuntimeError> {
        for directory in [self.sandboxes(), self.all_namespaces(), self.containers(), self.all_writable()] {
            fs::create_dir_all(directory).map_err(io_at("make the runtime's directories"))?;
        }
        let namespaces = self.all_namespaces();
        if !is_mount_point(&namespaces).map_err(io_at("read the mount table"))? {
            mount_bind(&namespaces, &namespaces).map_err(io_at("mount the namespaces' directory"))?;
            // Pins must not appear in, or be kept by, other mount namespaces.
            mount_change(&namespaces, MountPropagationFlags::PRIVATE)
                .map_err(io_at("make the namespaces' mount private"))?;
        }
        self.prepare_writable().map_err(io_at("prepare the containers' writable directories"))
    }

    /// Overlay refuses some file systems for its upper directory, another overlay for one (as inside Docker).
    fn prepare_writable(&self) -> io::Result<()> {
        let writable = self.all_writable();
        if is_mount_point(&writable)? || overlay_works(&writable).is_ok() {
            return Ok(());
        }
        tracing::warn!(directory = %writable.display(), "no overlay on this file system: containers write to memory");
        Ok(mount("tmpfs", &writable, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, Some(c"mode=0700"))?)
    }
}

/// The sub-directories of one of the runtime's directories.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Ids become file names and parts of cgroup paths.
pub(crate) fn is_safe_name(name: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(safe)
}

/// A mount that is never attached.
fn overlay_works(directory: &Path) -> io::Result<()> {
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    let parts = ["lower", "upper", "work"].map(|part| probe.join(part));
    let result = (|| {
        for part in &parts {
            fs::create_dir_all(part)?;
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (option, part) in ["lowerdir", "upperdir", "workdir"].into_iter().zip(&parts) {
            fsconfig_set_string(&context, option, part)?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        Ok(())
    })();
    let _ = fs::remove_dir_all(probe);
    result
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = fs::canonicalize(path)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    // Field 5 is the mount point; blanks in it are written as octal escapes (proc(5)).
    let wanted = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(wanted.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_unsafe() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", &"x".repeat(201)] {
            assert!(!is_safe_name(bad), "{bad}");
        }
        assert!(is_safe_name("3f0c_nginx-0.1"));
    }
}
