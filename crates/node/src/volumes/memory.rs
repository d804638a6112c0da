//! Volumes in memory: each a tmpfs, all below one mount of their own, which containers' mount namespaces let go of (the
//! runtime is told so), or the memory would stay in use as long as any container started meanwhile.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

/// Two pods may be the first at the same time.
static PREPARING: Mutex<()> = Mutex::new(());

/// Makes `path`, which is below `base`, a tmpfs of at most `size` bytes. What is there stays.
pub(super) fn mount_at(base: &Path, path: &Path, size: u64) -> io::Result<()> {
    prepare(base)?;
    fs::create_dir_all(path)?;
    if is_mount_point(path)? {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("size={size},mode=0777")).map_err(io::Error::other)?;
    Ok(mount("tmpfs", path, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, Some(options.as_c_str()))?)
}

/// Removes a directory of such mounts. Nothing happens when it isn't there.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        // Detached, since a container that is just ending may still use it. INVAL: it isn't one.
        match unmount(entry?.path(), UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    filetree::remove(directory)
}

fn prepare(base: &Path) -> io::Result<()> {
    let _one = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    fs::create_dir_all(base)?;
    if !is_mount_point(base)? {
        mount("tmpfs", base, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, Some(c"size=1m,mode=0711"))?;
        mount_change(base, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}

/// By statx(2), which says so since Linux 5.8.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
