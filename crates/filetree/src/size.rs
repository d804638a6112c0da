//! How much of the disk files take.

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::Path;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, open, statat};
use rustix::io::{Errno, Result};

use crate::walk::{Visitor, walk};

/// stat(2) counts in these, whatever the file system's blocks are.
const BLOCK: u64 = 512;

/// The bytes that a file, or a directory and everything below it, occupy, as `du -sx` counts: blocks, a file with
/// several names once, no other file systems. What vanishes while it is counted, or can't be read, counts as nothing.
pub fn size(root: &Path) -> u64 {
    let Ok(top) = statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW) else { return 0 };
    let mut sum = Sum { device: top.st_dev, total: bytes(&top), linked: HashSet::new() };
    if FileType::from_raw_mode(top.st_mode) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // An error ends the count early: it is what can't be read at all.
        let _ = open(root, flags, Mode::empty()).and_then(|root| walk(&root, &mut sum));
    }
    sum.total
}

fn bytes(found: &Stat) -> u64 {
    u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK
}

struct Sum {
    device: u64,
    total: u64,
    /// Files with several names.
    linked: HashSet<u64>,
}

impl Sum {
    /// Whether it is on the same file system.
    fn count(&mut self, directory: BorrowedFd<'_>, name: &CStr, file: bool) -> bool {
        let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let near = found.st_dev == self.device;
        if near && !(file && found.st_nlink > 1 && !self.linked.insert(found.st_ino)) {
            self.total += bytes(&found);
        }
        near
    }
}

impl Visitor for Sum {
    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.count(directory, name, true);
        Ok(())
    }

    fn enter(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        Ok(self.count(directory, name, false))
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &CStr) -> Result<()> {
        Ok(())
    }

    fn unreadable(&mut self, _: Errno) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, chain};
    use rustix::fs::openat;
    use std::fs;

    #[test]
    fn files_count_once_and_links_lead_nowhere() {
        let scratch = Scratch::new("size");
        let root = &scratch.0;
        fs::create_dir_all(root.join("a/b")).unwrap();
        let before = size(root);
        fs::write(root.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink("/", root.join("out")).unwrap();
        let grown = size(root) - before;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&grown), "{grown}");
        assert!(size(&root.join("again")) >= 1 << 20);
        assert_eq!(size(&root.join("none")), 0);
    }

    #[test]
    fn what_lies_deeper_than_a_path_is_long_counts() {
        let scratch = Scratch::new("deep-size");
        let lowest = chain(&scratch.0, 3000);
        let before = size(&scratch.0);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&lowest, "file", flags, Mode::from_raw_mode(0o600)).unwrap();
        std::io::Write::write_all(&mut fs::File::from(file), &vec![1; 1 << 20]).unwrap();
        let grown = size(&scratch.0) - before;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&grown), "{grown}");
    }
}
