//! Messages: building a buffer of them, and walking a received buffer.
//!
//! Not responsible for what the types and attributes mean.

use crate::attribute::{self, Attributes, FLAG_NESTED, HEADER_LEN, ParseError};
use crate::error::Error;

/// The length of `struct nlmsghdr`.
pub const MESSAGE_HEADER_LEN: usize = 16;

pub const FLAG_REQUEST: u16 = 0x1;
pub const FLAG_MULTI: u16 = 0x2;
pub const FLAG_ACK: u16 = 0x4;
pub const FLAG_DUMP_INTR: u16 = 0x10;
pub const FLAG_DUMP: u16 = 0x300;
pub const FLAG_REPLACE: u16 = 0x100;
pub const FLAG_EXCL: u16 = 0x200;
pub const FLAG_CREATE: u16 = 0x400;
pub const FLAG_APPEND: u16 = 0x800;
/// On an acknowledgement: extended attributes follow.
pub const FLAG_ACK_TLVS: u16 = 0x200;
/// On an acknowledgement: the request was not copied whole.
pub const FLAG_CAPPED: u16 = 0x100;

pub const TYPE_ERROR: u16 = 2;
pub const TYPE_DONE: u16 = 3;
pub const TYPE_OVERRUN: u16 = 4;

/// Hands out sequence numbers, so that an answer can be told from an older request's.
#[derive(Debug, Default)]
pub struct Sequence(u32);

impl Sequence {
    pub fn take(&mut self) -> u32 {
        // Zero marks messages that nobody asked for.
        self.0 = self.0.wrapping_add(1).max(1);
        self.0
    }
}

/// A growing buffer of messages.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    bytes: Vec<u8>,
    overlong: bool,
}

impl Builder {
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity), overlong: false }
    }

    /// Appends one message; `body` writes what follows the header.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(self);
        let Ok(len) = u32::try_from(self.bytes.len() - start) else {
            self.overlong = true;
            return;
        };
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    /// Writes bytes as they are (fixed headers).
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.attribute(kind, |b| b.raw(payload));
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub fn ne16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub fn ne32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Text with the zero byte that the kernel expects.
    pub fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |b| {
            b.raw(text.as_bytes());
            b.raw(&[0]);
        });
    }

    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.attribute(kind | FLAG_NESTED, body);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What was written so far, to be copied into another buffer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops what was written from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// The messages, unless an attribute outgrew its 16-bit length.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        if self.overlong { Err(Error::Overlong) } else { Ok(self.bytes) }
    }

    /// Adds flags to the message that starts at `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        if let Some(slot) = self.bytes.get_mut(start + 6..start + 8) {
            let old = u16::from_ne_bytes([slot[0], slot[1]]);
            slot.copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overlong = true,
        }
        self.pad();
    }

    fn pad(&mut self) {
        let padded = attribute::align(self.bytes.len());
        self.bytes.resize(padded, 0);
    }
}

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind a fixed header of `skip` bytes.
    pub fn attributes(&self, skip: usize) -> Result<Attributes<'a>, ParseError> {
        self.payload.get(skip..).map(Attributes::new).ok_or(ParseError::Truncated)
    }
}

/// The messages of a received buffer, in order.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_message(self.rest) {
            Some((message, rest)) => {
                self.rest = rest;
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(ParseError::Truncated))
            }
        }
    }
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let header: [u8; MESSAGE_HEADER_LEN] = bytes.get(..MESSAGE_HEADER_LEN)?.try_into().ok()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let len = usize::try_from(word(0)).ok()?;
    let payload = bytes.get(MESSAGE_HEADER_LEN..len)?;
    let message = Message {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        sequence: word(8),
        payload,
    };
    let rest = bytes.get(attribute::align(len)..).unwrap_or(&[]);
    Some((message, rest))
}

/// Bytes that an attribute of `payload` bytes takes in a message.
pub const fn attribute_len(payload: usize) -> usize {
    HEADER_LEN + attribute::align(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut builder = Builder::default();
        builder.message(0x0a0b, FLAG_REQUEST, 7, |m| {
            m.raw(&[1, 2, 3, 4]);
            m.nested(3, |n| {
                n.be32(1, 0xdead_beef);
                n.text(2, "odd");
            });
        });
        let bytes = builder.finish().unwrap();
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!((message.kind, message.flags, message.sequence), (0x0a0b, FLAG_REQUEST, 7));
        let nest = message.attributes(4).unwrap().require(3, "test").unwrap().nested();
        assert_eq!(nest.require(1, "test").unwrap().be32().unwrap(), 0xdead_beef);
        assert_eq!(nest.require(2, "test").unwrap().text().unwrap(), "odd");
    }

    #[test]
    fn an_overlong_attribute_is_an_error() {
        let mut builder = Builder::default();
        builder.message(1, 0, 1, |m| m.bytes(1, &vec![0; 70_000]));
        assert!(matches!(builder.finish(), Err(Error::Overlong)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in Messages::new(&bytes) {
                let Ok(message) = message else { break };
                for attribute in Attributes::new(message.payload).flatten() {
                    let _ = (attribute.u8(), attribute.be16(), attribute.be32(), attribute.be64(), attribute.text());
                    let _ = attribute.nested().count();
                }
                let _ = crate::socket::refusal(&message);
            }
            let _ = Attributes::new(&bytes).count();
        }
    }
}
