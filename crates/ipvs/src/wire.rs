//! The messages of the generic netlink family "IPVS" (linux/ip_vs.h), version 1: changes to bytes, bytes to values. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink::generic::{GENERIC_HEADER_LEN, GenericHeader};
use netlink::{Attribute, Attributes, Builder, Message, ParseError};

use crate::server::{Destination, DestinationState, Family, Forwarding, Op, Options, Scheduler, Server, ServerKey};

pub const FAMILY_NAME: &str = "IPVS";
const VERSION: u8 = 1;

/// Numbers of commands.
pub mod command {
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DEL_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DEST: u8 = 5;
    pub const SET_DEST: u8 = 6;
    pub const DEL_DEST: u8 = 7;
    pub const GET_DEST: u8 = 8;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
}

/// Attributes of a command.
pub const SERVICE: u16 = 1;
const DEST: u16 = 2;
pub const TIMEOUT_TCP: u16 = 4;
pub const TIMEOUT_TCP_FIN: u16 = 5;
pub const TIMEOUT_UDP: u16 = 6;

mod service {
    pub const AF: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const ADDR: u16 = 3;
    pub const PORT: u16 = 4;
    pub const FWMARK: u16 = 5;
    pub const SCHED_NAME: u16 = 6;
    pub const FLAGS: u16 = 7;
    pub const TIMEOUT: u16 = 8;
    pub const NETMASK: u16 = 9;
}

mod dest {
    pub const ADDR: u16 = 1;
    pub const PORT: u16 = 2;
    pub const FWD_METHOD: u16 = 3;
    pub const WEIGHT: u16 = 4;
    pub const U_THRESH: u16 = 5;
    pub const L_THRESH: u16 = 6;
    pub const ACTIVE_CONNS: u16 = 7;
    pub const INACT_CONNS: u16 = 8;
    pub const ADDR_FAMILY: u16 = 11;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const FLAG_PERSISTENT: u32 = 0x1;
/// One client is one address: the mask of a persistent server's clients, for IPv6 its length.
const WHOLE_V4: u32 = u32::MAX;
const WHOLE_V6: u32 = 128;

/// Writes a command's header.
pub fn header(m: &mut Builder, command: u8) {
    GenericHeader { command, version: VERSION }.write(m);
}

/// A change's command.
pub fn command_of(op: &Op) -> u8 {
    match op {
        Op::AddServer(..) => command::NEW_SERVICE,
        Op::SetServer(..) => command::SET_SERVICE,
        Op::DeleteServer(_) => command::DEL_SERVICE,
        Op::AddDestination(..) => command::NEW_DEST,
        Op::SetDestination(..) => command::SET_DEST,
        Op::DeleteDestination(..) => command::DEL_DEST,
    }
}

/// Writes a change: header and attributes.
pub fn write_op(m: &mut Builder, op: &Op) {
    header(m, command_of(op));
    match op {
        Op::AddServer(key, server) | Op::SetServer(key, server) => write_server(m, key, Some(server)),
        Op::DeleteServer(key) => write_server(m, key, None),
        Op::AddDestination(key, at, destination) | Op::SetDestination(key, at, destination) => {
            write_server(m, key, None);
            write_destination(m, *at, Some(destination));
        }
        Op::DeleteDestination(key, at) => {
            write_server(m, key, None);
            write_destination(m, *at, None);
        }
    }
}

/// Names a server, or describes it whole.
pub fn write_server(m: &mut Builder, key: &ServerKey, server: Option<&Server>) {
    m.nested(SERVICE, |m| {
        let v4 = key.family() == Family::V4;
        m.ne16(service::AF, if v4 { AF_INET } else { AF_INET6 });
        match key {
            ServerKey::Address { protocol, at } => {
                m.ne16(service::PROTOCOL, u16::from(*protocol));
                m.bytes(service::ADDR, &address_bytes(at.ip()));
                m.be16(service::PORT, at.port());
            }
            ServerKey::Mark { mark, .. } => m.ne32(service::FWMARK, *mark),
        }
        if let Some(server) = server {
            m.text(service::SCHED_NAME, server.scheduler.name());
            let flags = server.options.bits() | if server.persistence.is_some() { FLAG_PERSISTENT } else { 0 };
            // The flags, and which of them are meant.
            let mut pair = flags.to_ne_bytes().to_vec();
            pair.extend_from_slice(&u32::MAX.to_ne_bytes());
            m.bytes(service::FLAGS, &pair);
            m.ne32(service::TIMEOUT, server.persistence.unwrap_or(0));
            m.ne32(service::NETMASK, if v4 { WHOLE_V4 } else { WHOLE_V6 });
        }
    });
}

fn write_destination(m: &mut Builder, at: SocketAddr, destination: Option<&Destination>) {
    m.nested(DEST, |m| {
        m.bytes(dest::ADDR, &address_bytes(at.ip()));
        m.be16(dest::PORT, at.port());
        m.ne16(dest::ADDR_FAMILY, if at.is_ipv4() { AF_INET } else { AF_INET6 });
        if let Some(destination) = destination {
            m.ne32(dest::FWD_METHOD, destination.forwarding.number());
            m.ne32(dest::WEIGHT, destination.weight);
            // No bounds on connections.
            m.ne32(dest::U_THRESH, 0);
            m.ne32(dest::L_THRESH, 0);
        }
    });
}

/// Reads a server out of a dump.
pub fn read_server(message: &Message<'_>) -> Result<(ServerKey, Server), ParseError> {
    let attributes = message.attributes(GENERIC_HEADER_LEN)?.require(SERVICE, "an answer about servers")?.nested();
    let inside = "a server";
    let family = family_of(attributes.require(service::AF, inside)?.ne16()?)?;
    let key = match attributes.find(service::FWMARK)? {
        Some(mark) => ServerKey::Mark { family, mark: mark.ne32()? },
        None => {
            let number = attributes.require(service::PROTOCOL, inside)?.ne16()?;
            let protocol = u8::try_from(number)
                .map_err(|_| ParseError::Unknown { what: "a server's protocol", value: number.into() })?;
            let address = address(&attributes.require(service::ADDR, inside)?, family)?;
            let at = SocketAddr::new(address, attributes.require(service::PORT, inside)?.be16()?);
            ServerKey::Address { protocol, at }
        }
    };
    let flags = first_u32(&attributes.require(service::FLAGS, inside)?)?;
    let seconds = attributes.require(service::TIMEOUT, inside)?.ne32()?;
    let server = Server {
        scheduler: Scheduler::as_read(scheduler_name(&attributes)?),
        options: Options::from_flags(flags),
        persistence: (flags & FLAG_PERSISTENT != 0).then_some(seconds),
    };
    Ok((key, server))
}

/// A server can be without a scheduler while its module is replaced.
fn scheduler_name<'a>(attributes: &Attributes<'a>) -> Result<&'a str, ParseError> {
    attributes.find(service::SCHED_NAME)?.map_or(Ok(""), |name| name.text())
}

/// Reads a destination out of a dump. `family` is its server's, for kernels before 3.18, which don't say.
pub fn read_destination(message: &Message<'_>, family: Family) -> Result<(SocketAddr, DestinationState), ParseError> {
    let attributes = message.attributes(GENERIC_HEADER_LEN)?.require(DEST, "an answer about destinations")?.nested();
    let inside = "a destination";
    let family = match attributes.find(dest::ADDR_FAMILY)? {
        Some(number) => family_of(number.ne16()?)?,
        None => family,
    };
    let address = address(&attributes.require(dest::ADDR, inside)?, family)?;
    let at = SocketAddr::new(address, attributes.require(dest::PORT, inside)?.be16()?);
    let number = |kind| attributes.require(kind, inside).and_then(|found| found.ne32());
    let forwarding = Forwarding::from_number(number(dest::FWD_METHOD)?);
    let destination = Destination { forwarding, weight: number(dest::WEIGHT)? };
    let (active, inactive) = (number(dest::ACTIVE_CONNS)?, number(dest::INACT_CONNS)?);
    Ok((at, DestinationState { destination, active, inactive }))
}

/// Reads whatever of ours a message may be; for those who feed it bytes that no kernel sent.
pub fn understand(message: &Message<'_>) -> Result<(), ParseError> {
    let server = read_server(message).map(|(key, server)| drop((key.to_string(), server.to_string())));
    let destinations = [Family::V4, Family::V6].map(|family| read_destination(message, family).map(drop));
    destinations.into_iter().fold(server, Result::or)
}

impl Forwarding {
    /// IP_VS_CONN_F_FWD_MASK and IP_VS_CONN_F_MASQ.
    fn from_number(number: u32) -> Self {
        match number & 0x7 {
            0 => Self::Masquerade,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Masquerade => 0,
            Self::Other(number) => number,
        }
    }
}

fn family_of(number: u16) -> Result<Family, ParseError> {
    match number {
        AF_INET => Ok(Family::V4),
        AF_INET6 => Ok(Family::V6),
        other => Err(ParseError::Unknown { what: "an address family", value: other.into() }),
    }
}

/// `union nf_inet_addr`: sixteen bytes, of which IPv4 uses the first four.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(attribute: &Attribute<'_>, family: Family) -> Result<IpAddr, ParseError> {
    let short = ParseError::Length { kind: attribute.kind, found: attribute.payload.len(), expected: 16 };
    match family {
        Family::V4 => attribute.payload.first_chunk::<4>().map(|b| Ipv4Addr::from(*b).into()),
        Family::V6 => attribute.payload.first_chunk::<16>().map(|b| Ipv6Addr::from(*b).into()),
    }
    .ok_or(short)
}

fn first_u32(attribute: &Attribute<'_>) -> Result<u32, ParseError> {
    let short = ParseError::Length { kind: attribute.kind, found: attribute.payload.len(), expected: 8 };
    attribute.payload.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b)).ok_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink::Messages;
    use proptest::prelude::*;

    fn bytes_of(op: &Op) -> Vec<u8> {
        let mut builder = Builder::default();
        builder.message(0x1c, 0, 1, |m| write_op(m, op));
        builder.finish().unwrap()
    }

    fn server(persistence: Option<u32>) -> Server {
        Server { scheduler: Scheduler::round_robin(), options: Options::default(), persistence }
    }

    #[test]
    fn a_new_service_has_the_bytes_that_the_kernel_wants() {
        let key = ServerKey::Address { protocol: 6, at: "10.96.0.1:443".parse().unwrap() };
        let bytes = bytes_of(&Op::AddServer(key, server(None)));
        let expected = [
            1, 1, 0, 0, // NEW_SERVICE, version 1
            84, 0, 1, 0x80, // the service, a nest
            6, 0, 1, 0, 2, 0, 0, 0, // AF_INET
            6, 0, 2, 0, 6, 0, 0, 0, // TCP
            20, 0, 3, 0, 10, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // the address
            6, 0, 4, 0, 0x01, 0xbb, 0, 0, // port 443, big-endian
            7, 0, 6, 0, b'r', b'r', 0, 0, // the scheduler
            12, 0, 7, 0, 0, 0, 0, 0, 255, 255, 255, 255, // flags and their mask
            8, 0, 8, 0, 0, 0, 0, 0, // no persistence
            8, 0, 9, 0, 255, 255, 255, 255, // one client is one address
        ];
        assert_eq!(bytes[16..], expected);
    }

    #[test]
    fn servers_and_destinations_are_read_back() {
        let marked = ServerKey::Mark { family: Family::V6, mark: 0x5f70_0001 };
        for key in [
            ServerKey::Address { protocol: 17, at: "10.96.0.10:53".parse().unwrap() },
            ServerKey::Address { protocol: 132, at: "[fd00:96::a]:36412".parse().unwrap() },
            marked,
        ] {
            for persistence in [None, Some(10_800)] {
                let server = server(persistence);
                let bytes = bytes_of(&Op::AddServer(key, server.clone()));
                let message = Messages::new(&bytes).next().unwrap().unwrap();
                assert_eq!(read_server(&message), Ok((key, server)));
            }
        }
        let to = "[fd00:244:1::5]:8080".parse().unwrap();
        let bytes = bytes_of(&Op::SetDestination(marked, to, Destination::masqueraded(3)));
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let counts = ParseError::Missing { kind: dest::ACTIVE_CONNS, inside: "a destination" };
        assert_eq!(read_destination(&message, Family::V6), Err(counts), "which only the kernel adds");
    }

    #[test]
    fn a_dumped_destination_says_how_busy_it_is() {
        let mut builder = Builder::default();
        builder.message(0x1c, 0, 1, |m| {
            header(m, command::NEW_DEST);
            m.nested(DEST, |m| {
                m.bytes(dest::ADDR, &address_bytes("10.244.1.5".parse().unwrap()));
                m.be16(dest::PORT, 8080);
                m.ne32(dest::FWD_METHOD, 0);
                m.ne32(dest::WEIGHT, 0);
                m.ne32(dest::ACTIVE_CONNS, 2);
                m.ne32(dest::INACT_CONNS, 5);
            });
        });
        let bytes = builder.finish().unwrap();
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let (at, state) = read_destination(&message, Family::V4).unwrap();
        assert_eq!((at.to_string().as_str(), state.destination.weight, state.connections()), ("10.244.1.5:8080", 0, 7));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let message = Message { kind: 0x1c, flags: 0, sequence: 1, payload: &bytes };
            let _ = understand(&message);
            for message in Messages::new(&bytes).flatten() {
                let _ = understand(&message);
            }
        }

        #[test]
        fn a_message_with_a_flipped_byte_is_read_without_panic(at in 0_usize..200, flip in 1_u8..) {
            let key = ServerKey::Address { protocol: 6, at: "[fd00::1]:1".parse().unwrap() };
            let mut bytes = bytes_of(&Op::AddServer(key, server(Some(1))));
            let at = at % bytes.len();
            bytes[at] ^= flip;
            for message in Messages::new(&bytes).flatten() {
                let _ = understand(&message);
            }
        }
    }
}
