//! From directory to directory with one descriptor at a time: down by names that may not be links nor lead to another
//! mount, up by `..`, which must be where we came from.
//!
//! Not responsible for what is done with what is found.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::{Errno, Result};

/// What is done on the way.
pub(crate) trait Visitor {
    /// Anything that isn't a directory.
    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()>;
    /// A directory is met; true leads into it.
    fn enter(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool>;
    /// Everything in it has been visited.
    fn leave(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()>;
    /// A directory can't be opened or read; an error ends the walk.
    fn unreadable(&mut self, errno: Errno) -> Result<()>;
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A directory on the way from the root to where we are.
struct Level {
    name: CString,
    id: (u64, u64),
    /// Directories in it that are still to be visited.
    pending: Vec<CString>,
}

/// Visits everything below `root`.
pub(crate) fn walk(root: &OwnedFd, visitor: &mut impl Visitor) -> Result<()> {
    let mut levels = vec![read(root, CString::default(), visitor)?];
    let mut here = openat(root, ".", OFlags::PATH | DIRECTORY, Mode::empty())?;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            let entered = below(&here, &name, OFlags::RDONLY).and_then(|next| Ok((read(&next, name, visitor)?, next)));
            match entered {
                Ok((level, next)) => {
                    levels.push(level);
                    here = next;
                }
                Err(errno) => visitor.unreadable(errno)?,
            }
            continue;
        }
        let Some(left) = levels.pop() else { break };
        let Some(parent) = levels.last() else { break };
        match openat(&here, "..", OFlags::PATH | DIRECTORY, Mode::empty()) {
            Ok(up) if id(&up)? == parent.id => {
                here = up;
                visitor.leave(here.as_fd(), &left.name)?;
            }
            // It has been moved meanwhile, or removed.
            _ => here = back(root, &mut levels)?,
        }
    }
    Ok(())
}

/// Down the known way again, as far as it is still there.
fn back(root: &OwnedFd, levels: &mut Vec<Level>) -> Result<OwnedFd> {
    let mut here = openat(root, ".", OFlags::PATH | DIRECTORY, Mode::empty())?;
    for index in 1..levels.len() {
        match below(&here, &levels[index].name, OFlags::PATH) {
            Ok(next) if id(&next)? == levels[index].id => here = next,
            _ => {
                levels.truncate(index);
                break;
            }
        }
    }
    Ok(here)
}

fn below(directory: &OwnedFd, name: &CStr, access: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(directory, name, access | DIRECTORY, Mode::empty(), resolve)
}

fn read(directory: &OwnedFd, name: CString, visitor: &mut impl Visitor) -> Result<Level> {
    let mut level = Level { name, id: id(directory)?, pending: Vec::new() };
    for entry in Dir::read_from(directory)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => {
                visitor.unreadable(errno)?;
                break;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => FileType::from_raw_mode(found.st_mode),
                Err(errno) => {
                    visitor.unreadable(errno)?;
                    continue;
                }
            },
            kind => kind,
        };
        if kind != FileType::Directory {
            visitor.file(directory.as_fd(), name)?;
        } else if visitor.enter(directory.as_fd(), name)? {
            level.pending.push(name.to_owned());
        }
    }
    Ok(level)
}

fn id(directory: &OwnedFd) -> Result<(u64, u64)> {
    let found = fstat(directory)?;
    Ok((found.st_dev, found.st_ino))
}
