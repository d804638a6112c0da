//! The data directory: where everything lies, and who may use it.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// A system's directory, by its absolute path.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// Held by the supervisor for as long as it runs; the file names it.
pub struct Lock(#[allow(dead_code, reason = "dropping it unlocks")] File);

impl DataDir {
    /// The directory a command names, made when it isn't there (mode 0700).
    pub fn create(path: &Path) -> Result<Self> {
        let making = || format!("cannot make the data directory {}; choose another with --data-dir", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(making)?;
        Self::open(path)
    }

    /// The directory a command names, which must be there.
    pub fn open(path: &Path) -> Result<Self> {
        let opening =
            || format!("there is no data directory {}; name the one `up` uses with --data-dir", path.display());
        Ok(DataDir(path.canonicalize().with_context(opening)?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The API's objects (SQLite).
    pub fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }

    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What exists only while the system runs: sockets and the record of what runs.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub fn api_socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// A node's own directory: its agent's state, its pods' files and logs.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// Where a node's agent listens for logs and the like.
    pub fn kubelet_dir(&self, node: &str) -> PathBuf {
        self.run().join("kubelet").join(node)
    }

    pub(super) fn record(&self) -> PathBuf {
        self.run().join("system.json")
    }

    /// Short, and the same for the same directory: what cgroups and links are marked with.
    pub fn id(&self) -> String {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("{:08x}", hasher.finish() as u32)
    }

    /// Makes a directory below this one, with its parents.
    pub fn make(&self, path: &Path) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))
    }

    /// Takes the directory for this process, or says which one has it.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.0.join("lock");
        let opening = || format!("cannot open {}", path.display());
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).with_context(opening)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).with_context(opening)?;
                bail!(
                    "a system already runs on {} (process {}); end it with `portolan down --data-dir {}` or choose \
                     another directory with --data-dir",
                    self.0.display(),
                    holder.trim(),
                    self.0.display()
                );
            }
            Err(e) => return Err(io::Error::from(e)).with_context(|| format!("cannot lock {}", path.display())),
        }
        file.set_len(0).and_then(|()| file.rewind()).with_context(opening)?;
        writeln!(file, "{}", std::process::id()).with_context(opening)?;
        Ok(Lock(file))
    }

    /// Whether somebody holds the lock.
    pub fn locked(&self) -> Result<bool> {
        let path = self.0.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(io::Error::from(e)).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_system_at_a_time_and_the_second_is_told_who_has_it() {
        let path = std::env::temp_dir().join(format!("portolan-lock-{}", std::process::id()));
        let dir = DataDir::create(&path).unwrap();
        assert!(!dir.locked().unwrap());
        let lock = dir.lock().unwrap();
        assert!(dir.locked().unwrap());
        let error = dir.lock().err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert!(!dir.locked().unwrap());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
