//! A netlink socket of the netfilter, generic or route family: requests, dumps, batches, multicast.
//!
//! The kernel works a request off inside the send call, so every answer is queued when send returns and no call here
//! waits, except [`Socket::wait`] for multicast news.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::attribute::Attributes;
use crate::error::{Error, Refusal};
use crate::message::{
    Builder, FLAG_ACK, FLAG_ACK_TLVS, FLAG_CAPPED, FLAG_DUMP, FLAG_DUMP_INTR, FLAG_REQUEST, MESSAGE_HEADER_LEN,
    Message, Messages, Sequence, TYPE_DONE, TYPE_ERROR, TYPE_OVERRUN,
};
use crate::nfnetlink::{EncodedBatch, Group, MessageType, NfHeader};
use crate::sys;

const RECEIVE_CHUNK: usize = 64 * 1024;
const RECEIVE_BUFFER: i32 = 4 * 1024 * 1024;
/// How often a list may change under a dump before we give up on it.
const DUMP_ATTEMPTS: u32 = 20;
/// What the kernel keeps free of a send buffer (netlink_sendmsg).
const SEND_RESERVE: usize = 32;

const EXT_ACK_TEXT: u16 = 1;
const EXT_ACK_OFFSET: u16 = 2;

#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    pub sequence: Sequence,
}

/// The messages of a finished, consistent dump or request.
#[derive(Debug, Default)]
pub struct Dump {
    bytes: Vec<u8>,
    sequence: u32,
}

/// Requests that are sent together.
#[derive(Debug, Default)]
pub struct Requests {
    builder: Builder,
    sequences: Vec<u32>,
}

/// What [`Socket::try_receive`] found.
#[derive(Debug)]
pub enum Received {
    Messages(Vec<u8>),
    /// The kernel had more news than the buffer could hold: look at everything again.
    Overrun,
    Nothing,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace, where it stays.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    /// The same for generic netlink, whose families have numbers that [`crate::generic`] looks up.
    pub fn generic() -> Result<Self, Error> {
        Self::open(libc::NETLINK_GENERIC)
    }

    /// The same for links and addresses.
    pub fn route() -> Result<Self, Error> {
        Self::open(libc::NETLINK_ROUTE)
    }

    fn open(protocol: i32) -> Result<Self, Error> {
        let fd = sys::open(protocol).map_err(Error::Open)?;
        let set = |level, option, value, name| {
            sys::set_option(fd.as_fd(), level, option, value).map_err(|source| Error::Option { option: name, source })
        };
        set(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1, "NETLINK_EXT_ACK")?;
        set(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1, "NETLINK_CAP_ACK")?;
        if set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER, "SO_RCVBUFFORCE").is_err() {
            // Without CAP_NET_ADMIN over the host the system's limit applies.
            set(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER, "SO_RCVBUF")?;
        }
        Ok(Self { fd, buffer: vec![0; RECEIVE_CHUNK], sequence: Sequence::default() })
    }

    /// Joins a multicast group; its news then come by [`Socket::try_receive`].
    pub fn join(&self, group: Group) -> Result<(), Error> {
        let group = group as u32;
        sys::set_option(self.fd.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)
            .map_err(|source| Error::Join { group, source })
    }

    /// Bytes that one send may have now.
    pub fn send_capacity(&self) -> Result<usize, Error> {
        let size = sys::get_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF)
            .map_err(|source| Error::Option { option: "SO_SNDBUF", source })?;
        Ok(usize::try_from(size).unwrap_or(0).saturating_sub(SEND_RESERVE))
    }

    /// Makes room for a request of `needed` bytes, or says how much there is.
    pub fn ensure_capacity(&self, needed: usize) -> Result<(), Error> {
        if self.send_capacity()? >= needed {
            return Ok(());
        }
        let wanted = i32::try_from(needed + SEND_RESERVE).unwrap_or(i32::MAX);
        let forced = sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted);
        if forced.is_err() {
            sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, wanted)
                .map_err(|source| Error::Option { option: "SO_SNDBUF", source })?;
        }
        let capacity = self.send_capacity()?;
        if capacity < needed { Err(Error::TooBig { needed, capacity }) } else { Ok(()) }
    }

    /// Sends one request and returns what the kernel answers, up to its acknowledgement.
    pub fn request(
        &mut self,
        kind: MessageType,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Builder),
    ) -> Result<Dump, Error> {
        self.ask(kind.code(), flags, |m| {
            NfHeader::new(family).write(m);
            body(m);
        })
    }

    /// The same for a message of any family; `body` writes its fixed header too.
    pub fn ask(&mut self, code: u16, flags: u16, body: impl FnOnce(&mut Builder)) -> Result<Dump, Error> {
        let sequence = self.sequence.take();
        let mut builder = Builder::default();
        builder.message(code, FLAG_REQUEST | FLAG_ACK | flags, sequence, body);
        self.send(&builder.finish()?)?;
        self.collect(sequence).map(|(dump, _)| dump)
    }

    /// Lists objects, again when the list changed meanwhile.
    pub fn dump(&mut self, kind: MessageType, family: u8, body: impl Fn(&mut Builder)) -> Result<Dump, Error> {
        self.list(kind.code(), |m| {
            NfHeader::new(family).write(m);
            body(m);
        })
    }

    /// The same for a message of any family; `body` writes its fixed header too.
    pub fn list(&mut self, code: u16, body: impl Fn(&mut Builder)) -> Result<Dump, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.sequence.take();
            let mut builder = Builder::default();
            builder.message(code, FLAG_REQUEST | FLAG_DUMP, sequence, &body);
            self.send(&builder.finish()?)?;
            let (dump, interrupted) = self.collect(sequence)?;
            if !interrupted {
                return Ok(dump);
            }
        }
        Err(Error::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    /// Sends a batch and returns once the kernel has taken it whole; else every refusal, in order.
    pub fn commit(&mut self, batch: &EncodedBatch) -> Result<(), Error> {
        let Some(last) = batch.last else { return Ok(()) };
        self.ensure_capacity(batch.bytes.len())?;
        self.send(&batch.bytes)?;
        let mut refusals = Vec::new();
        let mut acknowledged = false;
        let mut overrun = false;
        loop {
            let chunk = match self.read()? {
                Received::Messages(bytes) => bytes,
                Received::Overrun => {
                    overrun = true;
                    continue;
                }
                Received::Nothing => break,
            };
            for message in Messages::new(&chunk) {
                let message = message?;
                let ours = message.sequence == batch.begin || batch.operations.contains(&message.sequence);
                if message.kind != TYPE_ERROR || !ours {
                    continue;
                }
                match refusal(&message)? {
                    Some(refusal) => refusals.push(refusal),
                    None => acknowledged |= message.sequence == last,
                }
            }
        }
        match (refusals.is_empty(), acknowledged, overrun) {
            (false, _, _) => Err(Error::Refused(refusals)),
            // A refusal may be among what was lost.
            (true, _, true) => Err(Error::Overrun),
            (true, true, false) => Ok(()),
            (true, false, false) => Err(Error::NoAnswer),
        }
    }

    /// Sends several requests at once, each of which takes effect or not by itself, and returns the refusals.
    pub fn execute(&mut self, requests: Requests) -> Result<Vec<Refusal>, Error> {
        let Requests { builder, sequences } = requests;
        let Some(last) = sequences.last().copied() else { return Ok(Vec::new()) };
        let bytes = builder.finish()?;
        self.ensure_capacity(bytes.len())?;
        self.send(&bytes)?;
        let mut refusals = Vec::new();
        loop {
            let chunk = match self.read()? {
                Received::Messages(bytes) => bytes,
                Received::Overrun => return Err(Error::Overrun),
                Received::Nothing => return Err(Error::NoAnswer),
            };
            for message in Messages::new(&chunk) {
                let message = message?;
                if message.kind == TYPE_ERROR && sequences.contains(&message.sequence) {
                    refusals.extend(refusal(&message)?);
                    if message.sequence == last {
                        return Ok(refusals);
                    }
                }
            }
        }
    }

    /// Takes queued news of a joined group without waiting.
    pub fn try_receive(&mut self) -> Result<Received, Error> {
        self.read()
    }

    /// Waits until there is something to receive. False when the time was up first.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        sys::wait_readable(self.fd.as_fd(), timeout).map_err(Error::Receive)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        loop {
            match sys::send(self.fd.as_fd(), bytes) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Send { len: bytes.len(), source }),
            }
        }
    }

    fn read(&mut self) -> Result<Received, Error> {
        loop {
            match sys::receive(self.fd.as_fd(), &mut self.buffer) {
                Ok(read) if !read.from_kernel => {}
                Ok(read) if read.truncated => return Err(Error::Truncated),
                Ok(read) => return Ok(Received::Messages(self.buffer[..read.len].to_vec())),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Received::Overrun),
                Err(e) => return Err(Error::Receive(e)),
            }
        }
    }

    /// Collects the answers to `sequence` up to the end mark or acknowledgement; also whether the list changed.
    fn collect(&mut self, sequence: u32) -> Result<(Dump, bool), Error> {
        let mut dump = Dump { bytes: Vec::new(), sequence };
        let mut interrupted = false;
        loop {
            let chunk = match self.read()? {
                Received::Messages(bytes) => bytes,
                Received::Overrun => return Err(Error::Overrun),
                Received::Nothing => return Err(Error::NoAnswer),
            };
            let mut finished = false;
            for message in Messages::new(&chunk) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & FLAG_DUMP_INTR != 0;
                match message.kind {
                    TYPE_OVERRUN => return Err(Error::Overrun),
                    // A dump that fails half way ends with a negative errno where success has zero.
                    TYPE_DONE | TYPE_ERROR => match refusal(&message)? {
                        Some(refusal) => return Err(Error::Refused(vec![refusal])),
                        None => finished = true,
                    },
                    _ => {}
                }
            }
            if chunk_is_ours(&chunk, sequence) {
                dump.bytes.extend_from_slice(&chunk);
            }
            if finished {
                return Ok((dump, interrupted));
            }
        }
    }
}

impl Requests {
    /// Appends one; `body` writes its fixed header and its attributes.
    pub fn push(&mut self, code: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Builder)) {
        self.builder.message(code, FLAG_REQUEST | FLAG_ACK | flags, sequence, body);
        self.sequences.push(sequence);
    }

    /// The sequence numbers in order.
    pub fn sequences(&self) -> &[u32] {
        &self.sequences
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.builder.as_bytes()
    }
}

impl Dump {
    /// The answers, without end marks and acknowledgements.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        let sequence = self.sequence;
        // Every chunk was walked once while it was received.
        Messages::new(&self.bytes)
            .map_while(Result::ok)
            .filter(move |m| m.sequence == sequence && !matches!(m.kind, TYPE_DONE | TYPE_ERROR))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn chunk_is_ours(chunk: &[u8], sequence: u32) -> bool {
    Messages::new(chunk).flatten().any(|m| m.sequence == sequence)
}

/// Reads an acknowledgement: `None` for success.
pub fn refusal(message: &Message<'_>) -> Result<Option<Refusal>, crate::ParseError> {
    let Some(code) = message.payload.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) else {
        return Err(crate::ParseError::Truncated);
    };
    if code == 0 {
        return Ok(None);
    }
    let mut refusal = Refusal { sequence: message.sequence, errno: code.saturating_neg(), text: None, offset: None };
    if message.flags & FLAG_ACK_TLVS != 0 {
        for attribute in Attributes::new(extended_attributes(message)).flatten() {
            match attribute.kind {
                EXT_ACK_TEXT => refusal.text = attribute.text().ok().map(str::to_owned),
                EXT_ACK_OFFSET => refusal.offset = attribute.ne32().ok(),
                _ => {}
            }
        }
    }
    Ok(Some(refusal))
}

/// The extended attributes lie behind the copy of the request, which is only its header when the answer is capped.
fn extended_attributes<'a>(message: &Message<'a>) -> &'a [u8] {
    let request = message.payload.get(4..).unwrap_or(&[]);
    let copied = if message.flags & FLAG_CAPPED != 0 {
        MESSAGE_HEADER_LEN
    } else {
        let len = request.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        crate::attribute::align(usize::try_from(len).unwrap_or(usize::MAX).min(request.len()))
    };
    request.get(copied..).unwrap_or(&[])
}
