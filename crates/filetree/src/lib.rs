//! Trees of files that others may have made, a container for instance: how much of the disk they occupy, and removing
//! them. They may be deeper than a path is long, and than a process may have descriptors or stack.
//!
//! Not responsible for what may be removed or how much may be taken.

mod remove;
mod size;
mod walk;

pub use remove::{remove, remove_in};
pub use size::size;

#[cfg(test)]
mod testing {
    //! Trees as a hostile container makes them.

    use std::path::{Path, PathBuf};

    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    /// A directory in memory, where depth is quick, that is removed at the end.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Self {
            let path = Path::new("/dev/shm").join(format!("filetree-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::process::Command::new("rm").arg("-rf").arg(&self.0).status();
        }
    }

    /// A chain of directories below `root`; gives the lowest.
    pub fn chain(root: &Path, depth: usize) -> rustix::fd::OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::open(root, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            here = openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        here
    }
}
