//! Removing a tree, whatever somebody has put into it.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, Result};

use crate::walk::{Visitor, walk};

/// Removes what is at `path`: a directory with everything in it, a file, a link (not what it leads to). Nothing there is
/// as good. What is mounted below is left alone and makes it fail.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_in(CWD, path)
}

/// The same for a path that starts at `directory`.
pub fn remove_in(directory: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(remove_at(directory.as_fd(), path)?)
}

fn remove_at(directory: BorrowedFd<'_>, path: &Path) -> Result<()> {
    match unlinkat(directory, path, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    loop {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut removal = Removal { removed: false };
        match openat(directory, path, flags, Mode::empty()) {
            Ok(root) => walk(&root, &mut removal)?,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        match unlinkat(directory, path, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => return Ok(()),
            // Something came, or was moved, while we were at it.
            Err(Errno::NOTEMPTY) if removal.removed => {}
            done => return done,
        }
    }
}

struct Removal {
    /// Anything at all: going over it again leads on.
    removed: bool,
}

impl Removal {
    fn unlink(&mut self, directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<()> {
        unlinkat(directory, name, flags)?;
        self.removed = true;
        Ok(())
    }
}

impl Visitor for Removal {
    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        match self.unlink(directory, name, AtFlags::empty()) {
            // Gone, or a directory by now: the next time over deals with it.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            done => done,
        }
    }

    fn enter(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        match self.unlink(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    fn leave(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        match self.unlink(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            done => done,
        }
    }

    fn unreadable(&mut self, errno: Errno) -> Result<()> {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Ok(()),
            errno => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, chain};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_and_what_links_lead_to_stays() {
        let scratch = Scratch::new("remove");
        let (tree, kept) = (scratch.0.join("tree"), scratch.0.join("kept"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        for index in 0..300 {
            fs::create_dir_all(tree.join(format!("wide/{index}/x"))).unwrap();
            fs::write(tree.join(format!("wide/{index}/x/file")), "x").unwrap();
        }
        symlink(&kept, tree.join("a/b/out")).unwrap();
        symlink(&kept, scratch.0.join("link")).unwrap();
        remove(&tree).unwrap();
        remove(&tree).unwrap();
        remove(&scratch.0.join("link")).unwrap();
        assert!(!tree.exists() && !scratch.0.join("link").is_symlink());
        assert!(kept.join("file").exists());
        remove(&kept.join("file")).unwrap();
        assert!(!kept.join("file").exists());
    }

    #[test]
    fn depth_costs_neither_descriptors_nor_stack() {
        let scratch = Scratch::new("deep");
        let tree = scratch.0.join("tree");
        fs::create_dir(&tree).unwrap();
        chain(&tree, 10_000);
        let removed = std::thread::Builder::new().stack_size(64 << 10).spawn({
            let tree = tree.clone();
            move || remove(&tree)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!tree.exists());
    }

    /// In a mount namespace of its own: this runs itself there.
    #[test]
    fn what_is_mounted_below_stays() {
        use std::process::Command;
        const INSIDE: &str = "FILETREE_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_none() {
            let itself = std::env::current_exe().unwrap();
            let mut command = Command::new("unshare");
            command.arg("-m").arg(itself).args(["--exact", "remove::tests::what_is_mounted_below_stays"]);
            assert!(command.env(INSIDE, "1").status().unwrap().success(), "this test needs to be root");
            return;
        }
        let scratch = Scratch::new("mounted");
        let point = scratch.0.join("tree/a/point");
        fs::create_dir_all(&point).unwrap();
        assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&point).status().unwrap().success());
        fs::write(point.join("file"), "x").unwrap();
        let error = remove(&scratch.0.join("tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
        assert!(point.join("file").exists());
        assert!(Command::new("umount").arg(&point).status().unwrap().success());
    }
}
