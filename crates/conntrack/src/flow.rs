//! Flows as values, and how they are read from messages.

use std::net::IpAddr;

use netlink::nfnetlink::NF_HEADER_LEN;
use netlink::{Attribute, Attributes, Message, ParseError};

pub(crate) const TUPLE_ORIG: u16 = 1;
pub(crate) const TUPLE_REPLY: u16 = 2;
pub(crate) const STATUS: u16 = 3;
pub(crate) const PROTOINFO: u16 = 4;
pub(crate) const TIMEOUT: u16 = 7;
pub(crate) const MARK: u16 = 8;
pub(crate) const ID: u16 = 12;
pub(crate) const ZONE: u16 = 18;
pub(crate) const MARK_MASK: u16 = 21;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// One end of a flow. The port is 0 for protocols without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub addr: IpAddr,
    pub port: u16,
}

/// A flow seen in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub proto: u8,
    /// Identifier, type and code of ICMP flows.
    pub icmp: Option<(u16, u8, u8)>,
}

/// `IPS_*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u32);

/// The kernel's number of a flow. A later flow with the same tuple has another, unless it got the same memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers come: its source is whom the flow really goes to.
    pub reply: Tuple,
    pub status: Status,
    pub mark: u32,
    pub zone: u16,
    pub id: FlowId,
    /// Seconds until it is forgotten, unless another packet comes.
    pub timeout: Option<u32>,
    /// The kernel's number of a TCP state.
    pub tcp_state: Option<TcpState>,
}

/// States of a TCP flow, as connection tracking counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpState {
    None,
    SynSent,
    SynRecv,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    SynSent2,
    Other(u8),
}

/// Which flows to list. What is `None` doesn't matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub family: Option<Family>,
    pub proto: Option<u8>,
    pub original_destination: Option<IpAddr>,
    pub original_destination_port: Option<u16>,
    pub zone: Option<u16>,
    /// Mask and value; the kernel itself leaves out the others.
    pub mark: Option<(u32, u32)>,
}

impl Family {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl Status {
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
    pub const SNAT: u32 = 1 << 4;
    pub const DNAT: u32 = 1 << 5;
    pub const DYING: u32 = 1 << 9;

    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// Whether an answer has been seen.
    pub const fn replied(self) -> bool {
        self.has(Self::SEEN_REPLY)
    }

    pub const fn is_destination_translated(self) -> bool {
        self.has(Self::DNAT)
    }
}

impl TcpState {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            other => Self::Other(other),
        }
    }
}

impl Filter {
    pub fn proto(mut self, proto: u8) -> Self {
        self.proto = Some(proto);
        self
    }

    /// Flows first sent to an address, of its family.
    pub fn to(mut self, addr: IpAddr) -> Self {
        self.family = Some(Family::of(addr));
        self.original_destination = Some(addr);
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.original_destination_port = Some(port);
        self
    }

    pub fn matches(&self, flow: &Flow) -> bool {
        let original = &flow.original;
        self.family.is_none_or(|family| family == Family::of(original.source.addr))
            && self.proto.is_none_or(|proto| proto == original.proto)
            && self.original_destination.is_none_or(|addr| addr == original.destination.addr)
            && self.original_destination_port.is_none_or(|port| port == original.destination.port)
            && self.zone.is_none_or(|zone| zone == flow.zone)
            && self.mark.is_none_or(|(mask, value)| flow.mark & mask == value)
    }
}

impl Flow {
    /// Reads a message of the kernel.
    pub fn read(message: &Message<'_>) -> Result<Self, ParseError> {
        let a = message.attributes(NF_HEADER_LEN)?;
        let number = |kind| a.find(kind)?.map(|attribute| attribute.be32()).transpose();
        Ok(Self {
            original: Tuple::read(&a.require(TUPLE_ORIG, "flow")?)?,
            reply: Tuple::read(&a.require(TUPLE_REPLY, "flow")?)?,
            status: Status(number(STATUS)?.unwrap_or(0)),
            mark: number(MARK)?.unwrap_or(0),
            zone: a.find(ZONE)?.map(|zone| zone.be16()).transpose()?.unwrap_or(0),
            id: FlowId(number(ID)?.unwrap_or(0)),
            timeout: number(TIMEOUT)?,
            tcp_state: tcp_state(&a)?,
        })
    }
}

impl Tuple {
    fn read(attribute: &Attribute<'_>) -> Result<Self, ParseError> {
        let a = attribute.nested();
        let ip = a.require(1, "tuple")?.nested();
        let proto = a.require(2, "tuple")?.nested();
        let port = |kind| -> Result<u16, ParseError> {
            Ok(proto.find(kind)?.map(|port| port.be16()).transpose()?.unwrap_or(0))
        };
        let byte = |kind| -> Result<Option<u8>, ParseError> { proto.find(kind)?.map(|b| b.u8()).transpose() };
        let icmp = match (proto.find(4)?, proto.find(7)?) {
            (Some(id), _) => Some((id.be16()?, byte(5)?.unwrap_or(0), byte(6)?.unwrap_or(0))),
            (_, Some(id)) => Some((id.be16()?, byte(8)?.unwrap_or(0), byte(9)?.unwrap_or(0))),
            _ => None,
        };
        Ok(Self {
            source: Endpoint { addr: read_addr(&ip, 1, 3)?, port: port(2)? },
            destination: Endpoint { addr: read_addr(&ip, 2, 4)?, port: port(3)? },
            proto: proto.require(1, "tuple")?.u8()?,
            icmp,
        })
    }
}

fn read_addr(ip: &Attributes<'_>, v4: u16, v6: u16) -> Result<IpAddr, ParseError> {
    match ip.find(v4)? {
        Some(addr) => Ok(IpAddr::from(addr.array::<4>()?)),
        None => Ok(IpAddr::from(ip.require(v6, "tuple")?.array::<16>()?)),
    }
}

fn tcp_state(a: &Attributes<'_>) -> Result<Option<TcpState>, ParseError> {
    let Some(info) = a.find(PROTOINFO)? else { return Ok(None) };
    let Some(tcp) = info.nested().find(1)? else { return Ok(None) };
    tcp.nested().find(1)?.map(|state| state.u8().map(TcpState::from_number)).transpose()
}

#[cfg(test)]
mod tests {
    use netlink::Messages;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let message = Message { kind: 0, flags: 0, sequence: 0, payload: &bytes };
            let _ = Flow::read(&message);
            for message in Messages::new(&bytes).flatten() {
                let _ = Flow::read(&message);
            }
        }
    }
}
