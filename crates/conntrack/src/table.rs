//! The flow table of a network namespace.

use std::net::IpAddr;

use netlink::nfnetlink::{MessageType, NF_HEADER_LEN, Subsystem};
use netlink::{Builder, Error, Socket};

use crate::error::ConntrackError;
use crate::flow::{Family, Filter, Flow, ID, MARK, MARK_MASK, TUPLE_ORIG, Tuple, ZONE};

const GET: u8 = 1;
const DELETE: u8 = 2;
const STATS: u8 = 5;
const ENOENT: i32 = 2;

#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, ConntrackError> {
        Ok(Self { socket: Socket::netfilter().map_err(ConntrackError::Open)? })
    }

    /// The flows that match, in no order.
    pub fn list(&mut self, filter: &Filter) -> Result<Vec<Flow>, ConntrackError> {
        let mut flows = Vec::new();
        let family = filter.family.map_or(0, Family::number);
        let dump = self.socket.dump(message(GET), family, |m| {
            if let Some((mask, value)) = filter.mark {
                m.be32(MARK, value);
                m.be32(MARK_MASK, mask);
            }
            if let Some(zone) = filter.zone {
                m.be16(ZONE, zone);
            }
        });
        for message in dump.map_err(ConntrackError::List)?.messages() {
            let flow = Flow::read(&message).map_err(|e| ConntrackError::List(e.into()))?;
            if filter.matches(&flow) {
                flows.push(flow);
            }
        }
        Ok(flows)
    }

    /// Deletes this very flow. False if it is gone, or a later flow has taken its place.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        let family = Family::of(flow.original.source.addr).number();
        let deleted = self.socket.request(message(DELETE), 0, family, |m| {
            m.nested(TUPLE_ORIG, |m| write_tuple(m, &flow.original));
            m.be32(ID, flow.id.0);
            if flow.zone != 0 {
                m.be16(ZONE, flow.zone);
            }
        });
        match deleted {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(ENOENT) => Ok(false),
            Err(error) => Err(ConntrackError::Delete(error)),
        }
    }

    /// How many flows there are.
    pub fn count(&mut self) -> Result<u32, ConntrackError> {
        let dump = self.socket.request(message(STATS), 0, 0, |_| {}).map_err(ConntrackError::Count)?;
        let answer = dump.messages().next().ok_or(ConntrackError::Count(Error::NoAnswer))?;
        let attributes = answer.attributes(NF_HEADER_LEN);
        let entries = attributes.and_then(|a| a.require(1, "statistics")?.be32());
        entries.map_err(|e| ConntrackError::Count(e.into()))
    }
}

fn message(number: u8) -> MessageType {
    MessageType { subsystem: Subsystem::Conntrack, number }
}

fn write_tuple(m: &mut Builder, tuple: &Tuple) {
    m.nested(1, |m| match (tuple.source.addr, tuple.destination.addr) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            m.bytes(1, &source.octets());
            m.bytes(2, &destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            m.bytes(3, &source.octets());
            m.bytes(4, &destination.octets());
        }
        // No flow has ends of two families; the kernel refuses a tuple without addresses.
        _ => {}
    });
    m.nested(2, |m| {
        m.u8(1, tuple.proto);
        match (tuple.icmp, tuple.source.addr) {
            (Some((id, kind, code)), IpAddr::V4(_)) => {
                m.be16(4, id);
                m.u8(5, kind);
                m.u8(6, code);
            }
            (Some((id, kind, code)), IpAddr::V6(_)) => {
                m.be16(7, id);
                m.u8(8, kind);
                m.u8(9, code);
            }
            (None, _) => {
                m.be16(2, tuple.source.port);
                m.be16(3, tuple.destination.port);
            }
        }
    });
}
