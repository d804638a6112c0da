//! A container's root: an overlay of the image's layers with a writable directory on top. Devices in it mean nothing:
//! what a container may use is in its `/dev`, and an image must not bring a way to the machine's disks.
//!
//! Not responsible for making or removing those directories.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string,
    fsmount, fsopen, mount, move_mount,
};

/// Mounts the overlay at `target`. `lower` is topmost first.
pub(crate) fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    // Before Linux 6.7 overlay knows no `lowerdir+`, and writes a line into the kernel's log for each try.
    if release().is_some_and(|release| release < (6, 7)) {
        return mount_by_options(lower, upper, work, target);
    }
    match mount_by_descriptor(lower, upper, work, target) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => mount_by_options(lower, upper, work, target),
        other => Ok(other?),
    }
}

/// The kernel's first two numbers.
fn release() -> Option<(u32, u32)> {
    let name = rustix::system::uname();
    let mut numbers = name.release().to_str().ok()?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// One call per layer: neither their number nor the characters in their names matter.
fn mount_by_descriptor(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// All layers in one string of at most a page: their names relative to their common directory.
fn mount_by_options(lower: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let parent = lower.first().and_then(|layer| layer.parent()).unwrap_or(Path::new("/"));
    let names: Vec<String> =
        lower.iter().map(|layer| layer.strip_prefix(parent).unwrap_or(layer).display().to_string()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", names.join(":"), upper.display(), work.display());
    let odd = |text: &str| text.contains([':', ',', '\\']);
    if names.iter().any(|name| odd(name)) || [upper, work].iter().any(|path| odd(&path.to_string_lossy())) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path with ':', ',' or '\\' needs Linux 6.7"));
    }
    let before = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::chdir(parent)?;
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let mounted = mount("overlay", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()));
    rustix::process::fchdir(before)?;
    Ok(mounted?)
}
