//! What can go wrong between us and the kernel, by step.

use std::io;

use crate::attribute::ParseError;

/// One message that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The sequence number of the refused message; a batch's own number when the batch as a whole was refused.
    pub sequence: u32,
    /// A positive errno.
    pub errno: i32,
    /// The kernel's explanation (NETLINK_EXT_ACK), which most refusals lack.
    pub text: Option<String>,
    /// Where in the message the offending attribute starts.
    pub offset: Option<u32>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset} of the message)")?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    #[error("cannot set netlink socket option {option}")]
    Option {
        option: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot join netlink group {group}")]
    Join {
        group: u32,
        #[source]
        source: io::Error,
    },
    #[error("cannot send {len} bytes to the kernel")]
    Send {
        len: usize,
        #[source]
        source: io::Error,
    },
    #[error("a request of {needed} bytes doesn't fit the socket's send buffer of {capacity}: split it")]
    TooBig { needed: usize, capacity: usize },
    #[error("an attribute or message grew beyond what its length field can say")]
    Overlong,
    #[error("cannot receive from the kernel")]
    Receive(#[source] io::Error),
    #[error("the kernel dropped messages because the receive buffer was full")]
    Overrun,
    #[error("a message was longer than the receive buffer")]
    Truncated,
    #[error("the kernel did not answer")]
    NoAnswer,
    #[error("the kernel refused: {}", .0.first().map_or_else(|| "no reason given".to_owned(), Refusal::to_string))]
    Refused(Vec<Refusal>),
    #[error("the list changed under us {attempts} times in a row")]
    Interrupted { attempts: u32 },
    #[error("cannot understand the kernel's answer")]
    Parse(#[from] ParseError),
}

impl Error {
    /// The errno of the first refusal, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(refusals) => refusals.first().map(|r| r.errno),
            _ => None,
        }
    }
}
