//! What can go wrong, by the step that failed.

use std::io;
use std::path::PathBuf;

/// A failed step on a namespace or on something in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make a network namespace (CAP_SYS_ADMIN is needed): {0}")]
    Unshare(#[source] io::Error),
    #[error("cannot open the network namespace {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot enter a network namespace (CAP_SYS_ADMIN is needed): {0}")]
    Enter(#[source] io::Error),
    #[error("cannot pin the network namespace at {path}: {source}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    #[error("the closure run inside a network namespace panicked")]
    Panicked,
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    #[error("{0:?} is no name for a link: 1 to 15 bytes without '/' and white space")]
    LinkName(String),
    #[error("there is no link {0}")]
    NoLink(String),
    #[error("cannot {step} {subject}: {source}")]
    Netlink { step: &'static str, subject: String, source: rtnetlink::Error },
    #[error("cannot {step} {subject}: {source}")]
    Io { step: &'static str, subject: String, source: io::Error },
    #[error("the route to {0} has no device and no gateway of its own family")]
    Route(ipnet::IpNet),
}

impl Error {
    /// The kernel's errno, where the kernel said no.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => Some(message.raw_code().abs()),
            Error::Unshare(e) | Error::Enter(e) | Error::Thread(e) | Error::Socket(e) => e.raw_os_error(),
            Error::Open { source, .. } | Error::Pin { source, .. } | Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether it failed because the thing is there already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether it failed because the thing isn't there.
    pub fn missing(&self) -> bool {
        matches!(self, Error::NoLink(_)) || matches!(self.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH))
    }
}
