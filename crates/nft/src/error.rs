//! Why a transaction or a dump failed.

use crate::object::Table;
use crate::transaction::Generation;

/// What of an operation is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("there is no such table, chain, set, rule or element, or something it refers to is missing (ENOENT)")]
    Missing,
    #[error("it exists already, with another definition, or it overlaps another interval (EEXIST)")]
    Exists,
    #[error("it is still used (EBUSY)")]
    InUse,
    #[error("it is malformed (EINVAL)")]
    Invalid,
    #[error("its name or comment is too long (ENAMETOOLONG)")]
    TooLong,
    #[error("the set is full (ENFILE)")]
    Full,
    #[error("the kernel does not support it (EOPNOTSUPP)")]
    Unsupported,
    #[error("it reads a register that nothing has written (ENODATA)")]
    Uninitialised,
    #[error("jumps form a loop or nest too deep (EMLINK, ELOOP)")]
    Loop,
    #[error("errno {0}")]
    Other(i32),
}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// One operation was refused, and with it the whole transaction.
    #[error("operation {index} refused: {reason}{}: {shown}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// The first refused operation of the transaction.
        index: usize,
        reason: Reason,
        /// The kernel's own words, where it has some.
        detail: Option<String>,
        /// The operation, shortened.
        shown: String,
    },
    /// Somebody else committed since the generation the transaction was made for.
    #[error("somebody else has written since generation {}", .0.0)]
    ForeignWrite(Generation),
    /// The kernel took the operations one by one but not their sum.
    #[error("the commit was refused: {0}")]
    Commit(Reason),
    #[error("the transaction takes {needed} bytes, the socket {capacity}: split it")]
    TooBig { needed: usize, capacity: usize },
    #[error("operation {index} can't be written: {reason}")]
    Unencodable { index: usize, reason: &'static str },
    #[error("the privilege to change nf_tables (CAP_NET_ADMIN) is missing")]
    Privilege,
    #[error("table {0} kept changing while it was read")]
    Unstable(Table),
    /// What happened is unknown: look before trying again.
    #[error("cannot {step}")]
    Netlink {
        step: &'static str,
        #[source]
        source: netlink::Error,
    },
}

impl Reason {
    pub fn from_errno(errno: i32) -> Self {
        // Numbers of asm-generic/errno, the same on every architecture we build for.
        match errno {
            2 => Self::Missing,
            17 | 39 => Self::Exists,
            16 => Self::InUse,
            22 | 34 | 75 => Self::Invalid,
            36 => Self::TooLong,
            23 => Self::Full,
            95 => Self::Unsupported,
            31 | 40 => Self::Loop,
            61 => Self::Uninitialised,
            other => Self::Other(other),
        }
    }
}
