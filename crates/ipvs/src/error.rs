//! Why something could not be read or changed.

/// What is wrong with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("it exists already (EEXIST)")]
    Exists,
    #[error("there is no such virtual server (ESRCH)")]
    NoServer,
    #[error("there is no such destination or scheduler (ENOENT)")]
    Missing,
    #[error("the kernel's IPVS doesn't know its protocol or family (EPROTONOSUPPORT, EAFNOSUPPORT)")]
    Unsupported,
    #[error("it is malformed (EINVAL)")]
    Invalid,
    #[error("the privilege to change it (CAP_NET_ADMIN) is missing (EPERM)")]
    Privilege,
    #[error("errno {0}")]
    Other(i32),
}

#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    #[error("this kernel has no IPVS")]
    NoIpvs,
    #[error("the change was refused: {reason}: {shown}")]
    Refused {
        /// Its place among those asked for.
        index: usize,
        reason: Reason,
        /// As `ipvsadm` would be asked for it.
        shown: String,
    },
    #[error("this kernel has no dummy devices, which hold the addresses of virtual servers")]
    NoDummy,
    #[error("cannot {step}")]
    Netlink {
        step: &'static str,
        #[source]
        source: netlink::Error,
    },
}

impl Reason {
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EEXIST => Self::Exists,
            libc::ESRCH => Self::NoServer,
            libc::ENOENT => Self::Missing,
            libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => Self::Unsupported,
            libc::EINVAL | libc::ERANGE => Self::Invalid,
            libc::EPERM => Self::Privilege,
            other => Self::Other(other),
        }
    }
}
