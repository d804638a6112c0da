//! The few packets a relay reads and writes itself: a TCP connection's first one, and what says no to it or to a
//! datagram. Pure: bytes in, bytes out.

use std::net::{IpAddr, SocketAddr};

/// Why a packet gets nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// Nobody listens there.
    Refused,
    Unrouted,
    Unreachable,
    /// A firewall, or our own rule.
    Forbidden,
}

/// A TCP segment that asks for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    pub from: SocketAddr,
    pub to: SocketAddr,
    sequence: u32,
    packet: Vec<u8>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
const TTL: u8 = 64;
/// An ICMPv6 error holds as much of its cause as fits into the smallest MTU (RFC 4443 section 2.4); for IPv4 the
/// header and eight bytes are enough (RFC 792).
const V6_CAUSE: usize = 1280 - V6_HEADER - ICMP_HEADER;

impl Syn {
    /// Reads a packet. `None` for everything else, and for segments behind IPv6 extension headers.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (from, to, segment) = match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 0xf) * 4;
                let (head, protocol) = (packet.get(..header.max(V4_HEADER))?, *packet.get(9)?);
                // A fragment's rest has no TCP header.
                let offset = u16::from_be_bytes([head[6], head[7]]) & 0x1fff;
                if protocol != TCP || offset != 0 || header < V4_HEADER {
                    return None;
                }
                (v4(&head[12..16])?, v4(&head[16..20])?, packet.get(header..)?)
            }
            6 => {
                let head = packet.get(..V6_HEADER)?;
                if head[6] != TCP {
                    return None;
                }
                (v6(&head[8..24])?, v6(&head[24..40])?, packet.get(V6_HEADER..)?)
            }
            _ => return None,
        };
        let head = segment.get(..TCP_HEADER)?;
        let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let sequence = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        const SYN: u8 = 0x02;
        const FIN_SYN_RST_ACK: u8 = 0x17;
        (head[13] & FIN_SYN_RST_ACK == SYN).then(|| Syn {
            from: SocketAddr::new(from, port(0)),
            to: SocketAddr::new(to, port(2)),
            sequence,
            packet: packet.to_vec(),
        })
    }

    /// The packet as it came.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// What tells the one who sent it.
    pub fn answer(&self, no: No) -> Vec<u8> {
        match no {
            No::Refused => self.reset(),
            other => unreachable(self.to.ip(), self.from.ip(), code(other, self.to.is_ipv4()), &self.packet),
        }
    }

    /// RFC 9293 section 3.5.2: the sequence number is zero and the SYN is acknowledged.
    fn reset(&self) -> Vec<u8> {
        const RST_ACK: u8 = 0x14;
        let mut segment = Vec::with_capacity(TCP_HEADER);
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(0_u32.to_be_bytes());
        segment.extend(self.sequence.wrapping_add(1).to_be_bytes());
        segment.extend([5 << 4, RST_ACK, 0, 0, 0, 0, 0, 0]);
        let sum = checksum(pseudo(self.to.ip(), self.from.ip(), TCP, segment.len()), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        datagram(self.to.ip(), self.from.ip(), TCP, &segment)
    }
}

/// What tells the sender of a datagram that it got nowhere.
pub fn undelivered(from: SocketAddr, to: SocketAddr, no: No) -> Vec<u8> {
    let mut head = Vec::with_capacity(UDP_HEADER);
    head.extend(from.port().to_be_bytes());
    head.extend(to.port().to_be_bytes());
    head.extend([0, UDP_HEADER as u8, 0, 0]);
    let code = match (to.is_ipv4(), no) {
        // A UDP socket is told of "unknown" and "rejected" at once, and of "unreachable" not at all.
        (true, No::Unrouted) => 6,
        (true, No::Unreachable) => 7,
        (false, No::Unrouted | No::Unreachable) => 6,
        (v4, other) => code(other, v4),
    };
    unreachable(to.ip(), from.ip(), code, &datagram(from.ip(), to.ip(), UDP, &head))
}

/// The codes of RFC 792, RFC 1122 section 3.2.2.1 and RFC 4443 section 3.1.
fn code(no: No, v4: bool) -> u8 {
    match (v4, no) {
        (true, No::Refused) => 3,
        (true, No::Unrouted) => 0,
        (true, No::Unreachable) => 1,
        (true, No::Forbidden) => 13,
        (false, No::Refused) => 4,
        (false, No::Unrouted) => 0,
        (false, No::Unreachable) => 3,
        (false, No::Forbidden) => 1,
    }
}

/// Destination unreachable.
fn unreachable(from: IpAddr, to: IpAddr, code: u8, cause: &[u8]) -> Vec<u8> {
    let v4 = from.is_ipv4();
    let kind = if v4 { 3 } else { 1 };
    let header = usize::from(cause.first().map_or(0, |first| first & 0xf)) * 4;
    let enough = if v4 { header + 8 } else { V6_CAUSE };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(&cause[..cause.len().min(enough)]);
    // ICMPv6 counts the addresses in, ICMP doesn't.
    let start = if v4 { 0 } else { pseudo(from, to, ICMPV6, message.len()) };
    let sum = checksum(start, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    datagram(from, to, if v4 { ICMP } else { ICMPV6 }, &message)
}

/// A whole packet. Both addresses are of one family.
fn datagram(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| u16::try_from(header + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::with_capacity(V6_HEADER + payload.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend(length(V4_HEADER));
            packet.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let sum = checksum(0, &packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length(0));
            packet.extend([protocol, TTL]);
            packet.extend(octets(from));
            packet.extend(octets(to));
        }
    }
    packet.extend(payload);
    packet
}

/// The sum over what TCP, UDP and ICMPv6 count in of the header below them.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> u32 {
    let addresses = add(add(0, &octets(from)), &octets(to));
    addresses + u32::from(protocol) + u32::try_from(length).unwrap_or(0)
}

/// RFC 1071.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = add(start, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn add(start: u32, bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).fold(start, u32::wrapping_add)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(from: &str, to: &str, flags: u8) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut segment = Vec::new();
        segment.extend(from.port().to_be_bytes());
        segment.extend(to.port().to_be_bytes());
        segment.extend(7_u32.to_be_bytes());
        segment.extend([0, 0, 0, 0, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
        datagram(from.ip(), to.ip(), TCP, &segment)
    }

    /// A correct sum over what has its own sum in it is zero.
    fn sums_up(start: u32, bytes: &[u8]) -> bool {
        checksum(start, bytes) == 0
    }

    #[test]
    fn a_request_for_a_connection_is_read_and_nothing_else_is() {
        let packet = syn("10.244.0.5:40000", "192.0.2.7:443", 0x02);
        let read = Syn::read(&packet).unwrap();
        assert_eq!((read.from.to_string(), read.to.to_string()), ("10.244.0.5:40000".into(), "192.0.2.7:443".into()));
        assert_eq!(read.packet(), packet);
        let six = Syn::read(&syn("[fd00::5]:1", "[2001:db8::7]:2", 0xc2)).unwrap();
        assert_eq!(six.to.to_string(), "[2001:db8::7]:2", "ECN setup is a SYN with more flags");
        for flags in [0x12, 0x04, 0x10, 0x01, 0x06] {
            assert_eq!(Syn::read(&syn("10.244.0.5:40000", "192.0.2.7:443", flags)), None);
        }
        for length in 0..packet.len() {
            assert_eq!(Syn::read(&packet[..length]), None);
        }
        let mut fragment = packet.clone();
        fragment[7] = 1;
        assert_eq!(Syn::read(&fragment), None);
    }

    #[test]
    fn refusals_have_the_sums_and_numbers_their_receivers_check() {
        let read = Syn::read(&syn("10.244.0.5:40000", "192.0.2.7:443", 0x02)).unwrap();
        let reset = read.answer(No::Refused);
        assert!(sums_up(0, &reset[..V4_HEADER]));
        assert!(sums_up(pseudo(read.to.ip(), read.from.ip(), TCP, TCP_HEADER), &reset[V4_HEADER..]));
        assert_eq!((&reset[28..32], reset[33]), (&8_u32.to_be_bytes()[..], 0x14));
        let error = read.answer(No::Unreachable);
        assert!(sums_up(0, &error[V4_HEADER..]));
        assert_eq!((&error[20..22], &error[28..]), (&[3, 1][..], &read.packet()[..28]));

        let (from, to) = ("[fd00::5]:53000".parse().unwrap(), "[2001:db8::7]:53".parse().unwrap());
        let error = undelivered(from, to, No::Refused);
        assert!(sums_up(pseudo(to.ip(), from.ip(), ICMPV6, error.len() - V6_HEADER), &error[V6_HEADER..]));
        assert_eq!(error[V6_HEADER..V6_HEADER + 2], [1, 4]);
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..(state >> 58) + 2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((state >> 33) as u8);
            }
            bytes[0] = if state & 1 == 0 { 0x40 | bytes[0] & 0xf } else { 0x60 };
            let _ = Syn::read(&bytes);
        }
    }
}
