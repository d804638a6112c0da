//! A `subPath` of a volume: made if it isn't there, and never outside of the volume, whatever links a container has put
//! into it.

use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat2};
use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("failed to prepare subPath {0:?}: it leads out of its volume")]
    Outside(PathBuf),
    #[error("failed to prepare subPath {path:?}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Makes a `subPath` a directory, if nothing is there yet. Links are followed as long as they stay in the volume: our
/// own files are links to `..data`.
pub fn ensure_part(root: &Path, inside: &Path) -> Result<(), PartError> {
    walk(root, inside).map_err(|errno| match errno {
        // What openat2(2) says of a path that leaves the root, and of links that never end.
        Errno::XDEV | Errno::LOOP => PartError::Outside(inside.to_owned()),
        errno => PartError::Io { path: inside.to_owned(), source: errno.into() },
    })
}

fn walk(root: &Path, inside: &Path) -> rustix::io::Result<()> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mut so_far = PathBuf::from(".");
    for part in inside.components() {
        let Component::Normal(name) = part else { continue };
        let next = so_far.join(name);
        match openat2(&root, &next, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath) {
            Err(Errno::NOENT) => {
                let parent = openat2(&root, &so_far, directory, Mode::empty(), beneath)?;
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let made = openat2(&parent, Path::new(name), flags, Mode::empty(), beneath)?;
                // Whoever the container runs as is to write there.
                fchmod(&made, Mode::from_raw_mode(0o777))?;
            }
            found => drop(found?),
        }
        so_far = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_sub_path_is_made_and_a_link_may_not_lead_out() {
        let dir = TempDir::new();
        ensure_part(dir.path(), Path::new("x/y")).unwrap();
        assert!(dir.path().join("x/y").is_dir());
        symlink("x/y", dir.path().join("within")).unwrap();
        ensure_part(dir.path(), Path::new("within/z")).unwrap();
        assert!(dir.path().join("x/y/z").is_dir());
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("../../etc", dir.path().join("up")).unwrap();
        symlink("/etc/none", dir.path().join("dangling")).unwrap();
        for bad in ["out/passwd", "out", "up/passwd", "dangling"] {
            assert!(matches!(ensure_part(dir.path(), Path::new(bad)), Err(PartError::Outside(_))), "{bad}");
        }
        fs::write(dir.path().join("file"), "x").unwrap();
        ensure_part(dir.path(), Path::new("file")).unwrap();
        assert!(matches!(ensure_part(dir.path(), Path::new("file/below")), Err(PartError::Io { .. })));
    }
}
