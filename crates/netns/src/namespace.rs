//! A network namespace held by a file descriptor: it lives as long as somebody holds it, a process is in it, or it is
//! pinned to a path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// A handle on a network namespace. Clones share it.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<File>);

impl NetNs {
    /// A new namespace with nothing in it but `lo`, down.
    pub fn new() -> Result<Self, Error> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::Unshare(e.into()))?;
            Self::current()
        })?
    }

    /// The calling thread's own.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace a process is in.
    pub fn of_process(pid: i32) -> Result<Self, Error> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// A namespace by a file: one under `/proc`, or a pin.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(NetNs(Arc::new(file)))
    }

    /// Gives the namespace a name in the file system, which keeps it alive. The file is made if it isn't there.
    pub fn pin(&self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Pin { path: path.to_owned(), source };
        File::options().create(true).append(true).open(path).map_err(failed)?;
        let source = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| failed(e.into()))
    }

    /// Undoes `pin`; succeeds when there is none.
    pub fn unpin(path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Pin { path: path.to_owned(), source };
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(failed(e.into())),
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }

    /// Runs a closure inside the namespace, on a thread of its own, and waits for it. What it makes there (sockets,
    /// say) stays in the namespace wherever it is used later. Blocks: keep it short.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| Error::Enter(e.into()))?;
            Ok(f())
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f).map_err(Error::Thread)?;
        thread.join().map_err(|_| Error::Panicked)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_new_namespace_is_another_one_and_the_caller_stays() {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let new = NetNs::new().unwrap();
        let inside = new.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(own, inside);
        assert_eq!(own, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    }

    #[test]
    fn sockets_stay_where_they_were_made() {
        // `lo` is down in a new namespace: an address that can be bound here can't be reached from there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = NetNs::new().unwrap().run(|| std::net::TcpStream::connect(address).unwrap_err()).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    }
}
