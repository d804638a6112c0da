//! A directory that ends with its owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new directory, removed with everything in it when dropped.
pub struct Temporary(PathBuf);

impl Temporary {
    #[allow(clippy::new_without_default, reason = "it makes a directory: that should be visible")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: unix sockets lie below it, and their paths are limited.
        let path = std::env::temp_dir().join(format!("portolan-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Temporary(path.canonicalize().expect("a directory just made"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and returns its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A mount that was left below it would be reported by whoever looks for remains; don't delete through it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
