//! Netlink framing and sockets: attributes, messages, dumps, nfnetlink batches, multicast groups.
//!
//! Knows the wire format of netlink and of nfnetlink's generic header, nothing about tables, rules or flows: the crates
//! `nft` and `conntrack` give the bytes a meaning. Nothing here panics on bytes from a socket.

pub mod attribute;
pub mod error;
pub mod message;
pub mod nfnetlink;
pub mod socket;
mod sys;

pub use attribute::{Attribute, Attributes, ParseError};
pub use error::{Error, Refusal};
pub use message::{Builder, Message, Messages, Sequence};
pub use nfnetlink::{Batch, MessageType, NfHeader, Subsystem};
pub use socket::{Dump, Received, Socket};
