//! Netlink framing and sockets: attributes, messages, dumps, nfnetlink batches, generic families, multicast groups.
//!
//! Knows the wire format of netlink, of nfnetlink's header and of generic netlink's, nothing about tables, rules, flows or
//! virtual servers: the crates `nft`, `conntrack` and `ipvs` give the bytes a meaning. Nothing here panics on bytes from a socket.

pub mod attribute;
pub mod error;
pub mod generic;
pub mod message;
pub mod nfnetlink;
pub mod socket;
mod sys;

pub use attribute::{Attribute, Attributes, ParseError};
pub use error::{Error, Refusal};
pub use message::{Builder, Message, Messages, Sequence};
pub use nfnetlink::{Batch, MessageType, NfHeader, Subsystem};
pub use socket::{Dump, Received, Requests, Socket};
