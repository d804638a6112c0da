//! nfnetlink: the header that all netfilter subsystems share, and atomic batches.

use crate::attribute::ParseError;
use crate::error::Error;
use crate::message::{Builder, FLAG_ACK, FLAG_REQUEST, Sequence};

/// The length of `struct nfgenmsg`.
pub const NF_HEADER_LEN: usize = 4;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENID: u16 = 1;

/// The netfilter subsystems we speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Subsystem {
    Conntrack = 1,
    Ipset = 6,
    Nftables = 10,
}

/// A subsystem's message number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageType {
    pub subsystem: Subsystem,
    pub number: u8,
}

/// Multicast groups of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Group {
    Nftables = 7,
}

/// The fixed part behind the netlink header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NfHeader {
    pub family: u8,
    pub resource: u16,
}

/// Messages that the kernel takes all or not at all.
#[derive(Debug)]
pub struct Batch {
    builder: Builder,
    subsystem: Subsystem,
    begin: u32,
    last: Option<(usize, u32)>,
    operations: Vec<u32>,
}

/// A batch ready to be sent.
#[derive(Debug)]
pub struct EncodedBatch {
    pub bytes: Vec<u8>,
    /// The sequence number that errors of the batch as a whole carry.
    pub begin: u32,
    /// The sequence number of the message that asks for an acknowledgement.
    pub last: Option<u32>,
    /// The sequence number of each operation, in order.
    pub operations: Vec<u32>,
}

impl MessageType {
    pub const fn code(self) -> u16 {
        (self.subsystem as u16) << 8 | self.number as u16
    }

    /// The message number, if a received type belongs to the subsystem.
    pub fn number_of(subsystem: Subsystem, code: u16) -> Option<u8> {
        let [low, high] = code.to_le_bytes();
        (high == subsystem as u8).then_some(low)
    }
}

impl NfHeader {
    pub fn new(family: u8) -> Self {
        Self { family, resource: 0 }
    }

    pub fn write(self, builder: &mut Builder) {
        let [high, low] = self.resource.to_be_bytes();
        builder.raw(&[self.family, 0, high, low]);
    }

    pub fn read(payload: &[u8]) -> Result<Self, ParseError> {
        match payload {
            [family, _, high, low, ..] => Ok(Self { family: *family, resource: u16::from_be_bytes([*high, *low]) }),
            _ => Err(ParseError::Truncated),
        }
    }
}

impl Batch {
    /// Opens a batch. With a generation, the kernel refuses it (ERESTART) when anybody has committed since.
    pub fn begin(subsystem: Subsystem, generation: Option<u32>, sequence: &mut Sequence) -> Self {
        let mut builder = Builder::default();
        let begin = sequence.take();
        builder.message(BATCH_BEGIN, FLAG_REQUEST, begin, |m| {
            NfHeader { family: 0, resource: subsystem as u16 }.write(m);
            if let Some(generation) = generation {
                m.be32(BATCH_GENID, generation);
            }
        });
        Self { builder, subsystem, begin, last: None, operations: Vec::new() }
    }

    /// Appends one operation.
    pub fn push(&mut self, number: u8, flags: u16, family: u8, sequence: u32, body: impl FnOnce(&mut Builder)) {
        let start = self.builder.len();
        let kind = MessageType { subsystem: self.subsystem, number }.code();
        self.builder.message(kind, FLAG_REQUEST | flags, sequence, |m| {
            NfHeader::new(family).write(m);
            body(m);
        });
        self.last = Some((start, sequence));
        self.operations.push(sequence);
    }

    pub fn len(&self) -> usize {
        self.builder.len()
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Closes the batch. Only the last operation asks for an acknowledgement: one for each would overflow the receive
    /// buffer after the commit, and the outcome would be unknown. (The end message itself is acknowledged by new
    /// kernels only.)
    pub fn finish(mut self, sequence: &mut Sequence) -> Result<EncodedBatch, Error> {
        if let Some((start, _)) = self.last {
            self.builder.add_flags(start, FLAG_ACK);
        }
        let subsystem = self.subsystem as u16;
        self.builder.message(BATCH_END, FLAG_REQUEST, sequence.take(), |m| {
            NfHeader { family: 0, resource: subsystem }.write(m);
        });
        Ok(EncodedBatch {
            bytes: self.builder.finish()?,
            begin: self.begin,
            last: self.last.map(|(_, sequence)| sequence),
            operations: self.operations,
        })
    }
}
