//! Parts of directories that containers may write to, bound where the container's specification finds them. Looked up
//! and bound by descriptor: a link that leads out is refused, whenever it appears.
//!
//! Not responsible for making what isn't there.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::record::SourcePart;

/// Binds each in the mount namespace of this process. The message is for the container's status.
pub(crate) fn bind(parts: &[SourcePart]) -> Result<(), String> {
    parts.iter().try_for_each(|part| {
        bind_one(part).map_err(|errno| match errno {
            // What openat2(2) says of a path that leaves the root, and of links that never end.
            Errno::XDEV | Errno::LOOP => format!("subPath {:?} leads out of its volume", part.inside.display()),
            errno => format!("cannot bind subPath {:?} of {}: {errno}", part.inside.display(), part.root.display()),
        })
    })
}

fn bind_one(part: &SourcePart) -> rustix::io::Result<()> {
    let root = rustix::fs::open(&part.root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&root, &part.inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath)?;
    let directory = FileType::from_raw_mode(statat(&found, "", AtFlags::EMPTY_PATH)?.st_mode) == FileType::Directory;
    prepare(&part.at, directory).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&found, "", flags)?;
    move_mount(&tree, "", CWD, &part.at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A mount point of the kind that the mount needs. An earlier try may have left one of the other kind.
fn prepare(at: &Path, directory: bool) -> std::io::Result<()> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    if at.is_dir() && !directory {
        fs::remove_dir(at)?;
    } else if at.is_file() && directory {
        fs::remove_file(at)?;
    }
    if directory { fs::create_dir_all(at) } else { fs::File::create(at).map(drop) }
}
