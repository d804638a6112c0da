//! A unix socket's address holds 107 bytes of path (`sun_path`, unix(7)); a data directory may be deeper than that.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// A path to bind or connect to that is short however deep the socket lies. Valid while this value lives.
pub struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

const SUN_PATH_MAX: usize = 107;

impl SocketPath {
    pub fn new(path: &Path) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= SUN_PATH_MAX {
            return Ok(SocketPath { path: path.to_owned(), _directory: None });
        }
        let directory = File::open(parent)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(SocketPath { path, _directory: Some(directory) })
    }

    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// Listens there, in place of whoever was killed and left its socket. Needs a tokio runtime.
    pub fn listen(&self) -> io::Result<UnixListener> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(&self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_socket_deeper_than_sun_path_can_be_bound_and_reached() {
        let root = std::env::temp_dir().join(format!("portolan-socket-{}", std::process::id()));
        let deep = root.join("d".repeat(80)).join("e".repeat(80));
        std::fs::create_dir_all(&deep).unwrap();
        let path = SocketPath::new(&deep.join("api.sock")).unwrap();
        for _ in 0..2 {
            let _listener = path.listen().unwrap();
            UnixStream::connect(SocketPath::new(&deep.join("api.sock")).unwrap().as_path()).unwrap();
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
