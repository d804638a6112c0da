//! Why a tool failed, by the tool's name and, where it says so, the line it refused.

use std::io;
use std::time::Duration;

use crate::Table;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{wanted} is not on this machine: install the package `iptables`")]
    Missing { wanted: &'static str },
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot talk to {program}")]
    Pipe {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} was not done after {} s and was ended", .limit.as_secs())]
    Slow { program: String, limit: Duration },
    /// The xtables lock (legacy) stayed taken.
    #[error("{program}: another program kept the lock: {said}")]
    Locked { program: String, said: String },
    #[error("{program} refused line {line}, `{text}`: {said}")]
    Refused { program: String, line: usize, text: String, said: String },
    #[error("{program} failed ({status}): {said}")]
    Failed { program: String, status: std::process::ExitStatus, said: String },
    /// Somebody put rules there that the tool cannot show, and would not keep.
    #[error("table {table:?} holds rules of `nft` that {program} cannot show: it can't be shared with them")]
    Incompatible { program: String, table: Table },
    #[error("{program} printed a line that is none of a table: `{line}`")]
    Unreadable { program: String, line: String },
    #[error("cannot let the kernel route 127.0.0.0/8")]
    RouteLoopback(#[source] io::Error),
    #[error("cannot ask the kernel whether its rules have changed")]
    Generation(#[source] nft::NftError),
    /// It may have been written.
    #[error("the kernel has not said whether it has taken the rules")]
    Write(#[source] nft::NftError),
    #[error("`{0}` names no flavour of iptables: it is `nft` or `legacy`")]
    NoFlavour(String),
}
