//! Questions as they come and responses as they go (RFC 1035, EDNS of RFC 6891), with truncation.

use crate::name::Name;
use crate::records::{Data, Record};
use crate::wire::{self, HEADER, name_at, u16_at};

/// A record type by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RrType(pub u16);

impl RrType {
    pub const A: RrType = RrType(1);
    pub const NS: RrType = RrType(2);
    pub const CNAME: RrType = RrType(5);
    pub const SOA: RrType = RrType(6);
    pub const PTR: RrType = RrType(12);
    pub const TXT: RrType = RrType(16);
    pub const AAAA: RrType = RrType(28);
    pub const SRV: RrType = RrType(33);
    pub const OPT: RrType = RrType(41);
    pub const IXFR: RrType = RrType(251);
    pub const AXFR: RrType = RrType(252);
    pub const ANY: RrType = RrType(255);
}

/// Response codes (RFC 1035 section 4.1.1; BADVERS of RFC 6891 needs EDNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// The largest UDP response we send, whatever a client says it takes: fits every path's packets (DNS flag day 2020).
pub const UDP_MAX: u16 = 1232;
/// What a client without EDNS takes (RFC 1035 section 2.3.4).
const UDP_MIN: u16 = 512;
const CLASS_IN: u16 = 1;

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    pub recursion_desired: bool,
    pub name: Name,
    pub rr_type: RrType,
    pub class: u16,
    /// The client wants what it gets unchecked (RFC 4035 section 3.2.2): said again in the response.
    pub checking_disabled: bool,
    /// The client's EDNS, if it has any.
    pub edns: Option<Edns>,
    /// Of the zone as the client has it, when it asks for what has changed since (RFC 1995 section 3).
    pub serial: Option<u32>,
    /// The question as it came, for the response to repeat to the letter (its case matters to 0x20 clients).
    question: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    pub udp_size: u16,
    pub version: u8,
    pub dnssec_ok: bool,
    /// The client would like to know how long a connection stays open (RFC 7828).
    pub keepalive: bool,
}

/// RFC 7828 section 3.1.
const KEEPALIVE: u16 = 11;

/// A message that gets no answer, or one without a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// Too short for a header, or a response: not to be answered, lest two servers talk forever.
    Ignore,
    /// Answer with this code and nothing else.
    Reply { id: u16, rcode: Rcode, opcode: u8 },
}

impl Query {
    /// Reads a query.
    pub fn parse(message: &[u8]) -> Result<Self, QueryError> {
        let (Ok(id), Ok(flags)) = (u16_at(message, 0), u16_at(message, 2)) else { return Err(QueryError::Ignore) };
        if message.len() < HEADER || flags & 0x8000 != 0 {
            return Err(QueryError::Ignore);
        }
        let opcode = (flags >> 11 & 0xf) as u8;
        let reply = |rcode| QueryError::Reply { id, rcode, opcode };
        if opcode != 0 {
            return Err(reply(Rcode::NotImp));
        }
        let malformed = |_| reply(Rcode::FormErr);
        if u16_at(message, 4).map_err(malformed)? != 1 {
            return Err(reply(Rcode::FormErr));
        }
        let (name, at) = name_at(message, HEADER).map_err(malformed)?;
        // Before the first name there is only the header to point into, which isn't the same in a response.
        if name.as_wire().len() + 1 != at - HEADER {
            return Err(reply(Rcode::FormErr));
        }
        let (rr_type, class) = (u16_at(message, at).map_err(malformed)?, u16_at(message, at + 2).map_err(malformed)?);
        let records = wire::records(message).map_err(malformed)?;
        let edns = Edns::read(message, &records).map_err(|()| reply(Rcode::FormErr))?;
        let soa = records.iter().find(|r| r.section == 1 && r.rr_type == RrType::SOA.0);
        let serial = soa.and_then(|soa| wire::soa_serial(message, soa).ok());
        let question = message[HEADER..at + 4].to_vec();
        let (recursion_desired, checking_disabled) = (flags & 0x0100 != 0, flags & 0x0010 != 0);
        let rr_type = RrType(rr_type);
        Ok(Query { id, recursion_desired, name, rr_type, class, checking_disabled, edns, serial, question })
    }

    pub fn class_in(&self) -> bool {
        self.class == CLASS_IN
    }

    /// The largest response this client takes over UDP.
    pub fn udp_limit(&self) -> usize {
        usize::from(self.edns.map_or(UDP_MIN, |e| e.udp_size.clamp(UDP_MIN, UDP_MAX)))
    }

    /// The question section as it came.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// A query of our own for a name, in the shape a client would send it.
    pub fn new(name: Name, rr_type: RrType, edns: Option<Edns>) -> Self {
        let mut question = name.as_wire().to_vec();
        question.push(0);
        question.extend(rr_type.0.to_be_bytes());
        question.extend(CLASS_IN.to_be_bytes());
        let (recursion_desired, checking_disabled) = (true, false);
        Query {
            id: 0,
            recursion_desired,
            name,
            rr_type,
            class: CLASS_IN,
            checking_disabled,
            edns,
            serial: None,
            question,
        }
    }

    /// The message that asks another server this question, recursion desired.
    pub fn write(&self, id: u16) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes[2] = 0x01;
        bytes[5] = 1;
        bytes.extend_from_slice(&self.question);
        if let Some(edns) = self.edns {
            bytes[11] = 1;
            bytes.extend([0, 0, RrType::OPT.0 as u8]);
            bytes.extend(UDP_MAX.to_be_bytes());
            bytes.extend([0, 0, u8::from(edns.dnssec_ok) << 7, 0, 0, 0]);
        }
        bytes
    }

    /// Where the last `labels` labels of the question's name begin in a response.
    fn suffix_at(&self, labels: usize) -> Option<u16> {
        let depth = self.name.depth();
        let skipped = depth.checked_sub(labels)?;
        let octets: usize = self.name.labels().take(skipped).map(|l| l.len() + 1).sum();
        u16::try_from(HEADER + octets).ok()
    }
}

impl Edns {
    /// The OPT record's content (RFC 6891 section 6.1): one at most, at the root, its options whole. Which of them we don't
    /// know makes no difference.
    fn read(message: &[u8], records: &[wire::RawRecord]) -> Result<Option<Self>, ()> {
        let mut opts = records.iter().filter(|r| r.section == 2 && r.rr_type == RrType::OPT.0);
        let Some(opt) = opts.next() else { return Ok(None) };
        if opts.next().is_some() || opt.owner.depth() > 0 {
            return Err(());
        }
        let mut keepalive = false;
        let mut rest = message.get(opt.data.clone()).ok_or(())?;
        while !rest.is_empty() {
            let (code, length) = (u16_at(rest, 0).map_err(|_| ())?, u16_at(rest, 2).map_err(|_| ())?);
            rest = rest.get(4 + usize::from(length)..).ok_or(())?;
            // RFC 7828 section 3.2.1: a client's has no content.
            if code == KEEPALIVE && length > 0 {
                return Err(());
            }
            keepalive |= code == KEEPALIVE;
        }
        let (version, dnssec_ok) = ((opt.ttl >> 16) as u8, opt.ttl & 0x8000 != 0);
        Ok(Some(Edns { udp_size: opt.class, version, dnssec_ok, keepalive }))
    }
}

/// A response before it's written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub rcode: Rcode,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// How many labels of the question's end are our zone: names of records repeat their case.
    pub zone_labels: usize,
    /// In tenths of a second, how long the connection may stay idle: said to those who asked (RFC 7828).
    pub keepalive: Option<u16>,
}

impl Response {
    pub fn code(rcode: Rcode) -> Self {
        let (answers, authority, additional) = (Vec::new(), Vec::new(), Vec::new());
        Response { rcode, authoritative: false, answers, authority, additional, zone_labels: 0, keepalive: None }
    }

    /// Writes the message, no longer than `limit` octets. What doesn't fit is left out from the end; when a record of
    /// the answer or the authority is left out, TC says so (RFC 2181 section 9).
    pub fn write(&self, query: &Query, limit: usize) -> Vec<u8> {
        let mut writer = Writer { bytes: Vec::with_capacity(512), query, zone: self.zone_labels };
        writer.header(self, query);
        let keepalive = self.keepalive.filter(|_| query.edns.is_some_and(|e| e.keepalive));
        let opt_octets = if query.edns.is_some() { 11 + keepalive.map_or(0, |_| 6) } else { 0 };
        let room = limit.saturating_sub(opt_octets);
        let mut truncated = false;
        let mut counts = [0u16; 3];
        for (section, records) in [&self.answers, &self.authority, &self.additional].into_iter().enumerate() {
            for record in records {
                let before = writer.bytes.len();
                writer.record(record);
                if truncated || writer.bytes.len() > room {
                    writer.bytes.truncate(before);
                    truncated |= section < 2;
                    break;
                }
                counts[section] += 1;
            }
        }
        if query.edns.is_some() {
            writer.opt(self.rcode, keepalive);
            counts[2] += 1;
        }
        for (count, at) in counts.iter().zip([6, 8, 10]) {
            writer.bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        if truncated {
            writer.bytes[2] |= 0x02;
        }
        writer.bytes
    }

    /// A message with nothing but a header, for what could not be read.
    pub fn header_only(id: u16, opcode: u8, rcode: Rcode) -> Vec<u8> {
        let flags = 0x8000 | u16::from(opcode) << 11 | rcode as u16 & 0xf;
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes
    }
}

struct Writer<'a> {
    bytes: Vec<u8>,
    query: &'a Query,
    zone: usize,
}

impl Writer<'_> {
    fn header(&mut self, response: &Response, query: &Query) {
        // QR, and RA: names outside the zone are resolved for clients.
        let mut flags: u16 = 0x8080 | response.rcode as u16 & 0xf;
        flags |= u16::from(response.authoritative) << 10 | u16::from(query.recursion_desired) << 8;
        flags |= u16::from(query.checking_disabled) << 4;
        self.u16(query.id);
        self.u16(flags);
        self.u16(1);
        self.bytes.extend([0; 6]);
        self.bytes.extend_from_slice(&query.question);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.owner);
        self.u16(record.data.rr_type().0);
        self.u16(CLASS_IN);
        self.bytes.extend(record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.u16(0);
        match &record.data {
            Data::A(address) => self.bytes.extend(address.octets()),
            Data::Aaaa(address) => self.bytes.extend(address.octets()),
            Data::Cname(name) | Data::Ptr(name) | Data::Ns(name) => self.name(name),
            Data::Srv { priority, weight, port, target } => {
                self.u16(*priority);
                self.u16(*weight);
                self.u16(*port);
                // RFC 2782 forbids compression of the target, and every client reads it; CoreDNS compresses none.
                self.plain_name(target);
            }
            Data::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                self.bytes.push(text.len() as u8);
                self.bytes.extend_from_slice(text);
            }
            Data::Soa { mname, rname, serial, refresh, retry, expire, minimum } => {
                self.name(mname);
                self.name(rname);
                for number in [serial, refresh, retry, expire, minimum] {
                    self.bytes.extend(number.to_be_bytes());
                }
            }
        }
        let length = (self.bytes.len() - length_at - 2) as u16;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// A name, its end by a pointer where the question ends alike.
    fn name(&mut self, name: &Name) {
        let shared = self.shared(name);
        match self.query.suffix_at(shared).filter(|_| shared > 0) {
            Some(at) => {
                for label in name.labels().take(name.depth() - shared) {
                    self.label(label);
                }
                self.u16(0xc000 | at);
            }
            None => self.plain_name(name),
        }
    }

    /// A name without a pointer; the end that it shares with the question is written as the question wrote it.
    fn plain_name(&mut self, name: &Name) {
        let query = self.query;
        let shared = self.shared(name);
        let own = name.labels().take(name.depth() - shared);
        for label in own.chain(query.name.labels().skip(query.name.depth() - shared)) {
            self.label(label);
        }
        self.bytes.push(0);
    }

    /// How many labels at its end a name shares with the question: all of the question's own name, in whatever case; else
    /// those of the zone in whatever case (0x20 clients want theirs back) and more that are spelled the same.
    fn shared(&self, name: &Name) -> usize {
        let question = &self.query.name;
        if name == question {
            return question.depth();
        }
        let mut depth = 0;
        let ends = question.labels().collect::<Vec<_>>().into_iter().rev();
        for (own, other) in ends.zip(name.labels().collect::<Vec<_>>().into_iter().rev()) {
            if own != other && (depth >= self.zone || !own.eq_ignore_ascii_case(other)) {
                break;
            }
            depth += 1;
        }
        depth
    }

    fn opt(&mut self, rcode: Rcode, keepalive: Option<u16>) {
        self.bytes.push(0);
        self.u16(RrType::OPT.0);
        self.u16(UDP_MAX);
        let dnssec_ok = self.query.edns.is_some_and(|e| e.dnssec_ok);
        self.bytes.extend([(rcode as u16 >> 4) as u8, 0, u8::from(dnssec_ok) << 7, 0]);
        self.u16(keepalive.map_or(0, |_| 6));
        for part in keepalive.into_iter().flat_map(|tenths| [KEEPALIVE, 2, tenths]) {
            self.u16(part);
        }
    }

    fn label(&mut self, label: &[u8]) {
        self.bytes.push(label.len() as u8);
        self.bytes.extend_from_slice(label);
    }

    fn u16(&mut self, number: u16) {
        self.bytes.extend(number.to_be_bytes());
    }
}
