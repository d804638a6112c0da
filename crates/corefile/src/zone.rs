//! Zones and the keys of server blocks: `[SCHEME://]ZONE[:PORT]`, where a CIDR is the reverse zones of its addresses. Not
//! responsible for which block a query gets to.

use std::fmt::{Display, Formatter};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::problem::Fault;

/// A domain in lower case with its last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Zone(String);

impl Zone {
    /// The root.
    pub fn root() -> Self {
        Zone(".".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a name that may lack its last dot. Not checked. A backslash at its end, which would escape the dot, is one of its
    /// characters.
    pub(crate) fn of(name: &str) -> Self {
        let escapes = |text: &str| (text.len() - text.trim_end_matches('\\').len()) % 2 == 1;
        let name = name.to_lowercase();
        Zone(match name.strip_suffix('.') {
            Some(rest) if !escapes(rest) => name,
            _ if escapes(&name) => format!("{name}\\."),
            _ => format!("{name}."),
        })
    }

    /// Whether it is for PTR records: below `in-addr.arpa` or `ip6.arpa`.
    pub fn is_reverse(&self) -> bool {
        self.0.ends_with(".in-addr.arpa.") || self.0.ends_with(".ip6.arpa.")
    }
}

impl Display for Zone {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How queries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Dns,
    Tls,
    Quic,
    Grpc,
    Https3,
    Https,
    /// A socket of the file system, for upstreams of some plugins.
    Unix,
}

impl Transport {
    const ALL: [Transport; 7] = [
        Transport::Tls,
        Transport::Dns,
        Transport::Quic,
        Transport::Grpc,
        Transport::Https3,
        Transport::Https,
        Transport::Unix,
    ];

    pub fn scheme(self) -> &'static str {
        match self {
            Transport::Dns => "dns",
            Transport::Tls => "tls",
            Transport::Quic => "quic",
            Transport::Grpc => "grpc",
            Transport::Https3 => "https3",
            Transport::Https => "https",
            Transport::Unix => "unix",
        }
    }

    /// The port where none is given; plain DNS has 53 unless told otherwise.
    pub fn port(self) -> u16 {
        match self {
            Transport::Dns | Transport::Unix => 53,
            Transport::Tls | Transport::Quic => 853,
            Transport::Grpc | Transport::Https | Transport::Https3 => 443,
        }
    }

    /// Takes the scheme off; without one it is plain DNS.
    pub(crate) fn split(text: &str) -> (Transport, &str) {
        let found = Transport::ALL.iter().find_map(|transport| {
            let rest = text.strip_prefix(transport.scheme())?.strip_prefix("://")?;
            Some((*transport, rest))
        });
        found.unwrap_or((Transport::Dns, text))
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

impl Serialize for Transport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.scheme())
    }
}

/// What a server block serves: names of a zone, asked for in one way at one port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Key {
    pub transport: Transport,
    pub zone: Zone,
    pub port: u16,
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", self.transport, self.zone, self.port)
    }
}

/// Reads a key; a CIDR that doesn't end at a label's edge is several.
pub(crate) fn keys(text: &str, default_port: u16) -> Result<Vec<Key>, Fault> {
    let fault = |because| Fault::Key { key: text.to_owned(), because };
    let (transport, rest) = Transport::split(text);
    if transport == Transport::Unix {
        return Err(fault("nothing listens on sockets of the file system"));
    }
    let (names, port) = split(rest).map_err(fault)?;
    for name in &names {
        split(Zone::of(name).as_str()).map_err(fault)?;
    }
    let port = match port {
        Some(port) => u16::try_from(port).map_err(|_| fault("ports go from 0 to 65535"))?,
        None if transport == Transport::Dns => default_port,
        None => transport.port(),
    };
    Ok(names.iter().map(|name| Key { transport, zone: Zone::of(name), port }).collect())
}

/// The zones of a text that may have a scheme and a port, which count for nothing.
pub(crate) fn zones(text: &str) -> Result<Vec<Zone>, &'static str> {
    let (names, _) = split(Transport::split(text).1)?;
    Ok(names.iter().map(|name| Zone::of(name)).collect())
}

/// Names and port.
fn split(text: &str) -> Result<(Vec<String>, Option<i64>), &'static str> {
    let colon = text.rfind(':');
    if colon.is_some_and(|at| at + 1 == text.len()) {
        return Err("a port is expected after the last colon");
    }
    let (mut name, mut port) = (text, None);
    if let Some(at) = colon
        && let Ok(number) = text[at + 1..].parse::<i64>()
    {
        (name, port) = (&text[..at], Some(number));
    }
    if name.len() > 255 {
        return Err("the zone is longer than 255 characters");
    }
    if !is_domain_name(name) {
        return Err("the zone is no domain name");
    }
    let Some(network) = network(name) else { return Ok((vec![name.to_owned()], port)) };
    if name.starts_with(':') || (name.starts_with('0') && name.contains(':')) {
        return Err("a CIDR begins with another digit than 0");
    }
    Ok((reverse(network), port))
}

/// A CIDR, of whose address only the prefix counts. A name otherwise.
fn network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    // `ipnet` reads no leading zeros in lengths, and a plain digit is enough for anybody.
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let address: IpAddr = address.parse().ok()?;
    IpNet::new(address, length.parse().ok()?).ok().map(|network| network.trunc())
}

/// The reverse zones of a network, one for each prefix that ends at a label's edge.
fn reverse(network: IpNet) -> Vec<String> {
    let bits = if network.addr().is_ipv4() { 8 } else { 4 };
    let length = network.prefix_len().div_ceil(bits) * bits;
    let subnets = network.subnets(length).into_iter().flatten();
    subnets.map(|subnet| reverse_zone(&subnet, bits)).collect()
}

fn reverse_zone(network: &IpNet, bits: u8) -> String {
    let labels = usize::from(network.prefix_len() / bits);
    let mut zone = String::new();
    match network.addr() {
        IpAddr::V4(address) => {
            address.octets()[..labels].iter().rev().for_each(|octet| zone.push_str(&format!("{octet}.")));
            zone.push_str("in-addr.arpa.");
        }
        IpAddr::V6(address) => {
            let nibbles: Vec<u8> = address.octets().iter().flat_map(|octet| [octet >> 4, octet & 15]).collect();
            nibbles[..labels].iter().rev().for_each(|nibble| zone.push_str(&format!("{nibble:x}.")));
            zone.push_str("ip6.arpa.");
        }
    }
    zone
}

/// Whether a text can be a domain name, as Go's library that CoreDNS is built on judges: any characters, in labels of up to
/// 63 with 255 in all, where a backslash takes what follows as it is.
pub(crate) fn is_domain_name(text: &str) -> bool {
    if text.is_empty() {
        return false;
    }
    let ends = Zone::of(text);
    let bytes = if ends.as_str().len() > text.len() { [text.as_bytes(), b"."].concat() } else { text.into() };
    let (mut at, mut begin, mut total, mut after_dot, mut escape) = (0, 0, 0, false, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                escape = !escape;
                if total + 1 > 256 {
                    return false;
                }
                let digits = bytes.get(at + 1..at + 4).is_some_and(|next| next.iter().all(u8::is_ascii_digit));
                let skipped = if digits { 3 } else { 1 };
                at += skipped;
                begin += skipped;
                after_dot = false;
            }
            b'.' => {
                escape = false;
                let label = at.saturating_sub(begin);
                total += label + 1;
                if (at == 0 && bytes.len() > 1) || after_dot || label > 63 || total > 256 {
                    return false;
                }
                after_dot = true;
                begin = at + 1;
            }
            _ => (escape, after_dot) = (false, false),
        }
        at += 1;
    }
    !escape
}

/// Host and port of `HOST:PORT` and `[HOST]:PORT`.
pub(crate) fn split_address(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        let plain = |part: &str| !part.contains(['[', ']']);
        return (plain(host) && plain(port) && !port.contains(':')).then_some((host, port));
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.contains([':', '[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}

/// An address, which may have a zone of IPv6 (`%eth0`).
pub(crate) fn is_address(text: &str) -> bool {
    text.rsplit_once('%').map_or(text, |(address, _)| address).parse::<IpAddr>().is_ok()
}
