//! Bytes as nf_tables compares them: keys, data, constants; and the data types that give them a meaning.
//!
//! A concatenation is its fields one after the other, each padded to four bytes. Addresses, ports and interval bounds
//! are big-endian, marks are in the machine's own order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of an interface name in the kernel.
pub const IFNAME_LEN: usize = 16;

/// A data type by nft's name. Its number is part of the agreement between nft versions (`nft describe`).
///
/// Two data types are equal when the kernel stores them alike, so that what was read back equals what was written.
#[derive(Debug, Clone, Copy)]
pub enum DataType {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
    /// An index that `numgen` chooses. Stored and listed as a mark; in printed transactions it is
    /// `typeof numgen …`, since nft's text won't mix a number generator with the type `mark`.
    Slot,
    IfName,
    IfIndex,
    NfProto,
    CtState,
    CtDir,
    CtStatus,
    FibAddrType,
    /// A type of somebody else's set.
    Other(u8),
}

/// The types of a key or of a map's data: one, or several for a concatenation.
pub type Types = Vec<DataType>;

/// Bytes of a key, of a map's data or of a constant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Value(Box<[u8]>);

/// Builds a [`Value`] field by field.
#[derive(Debug, Clone, Default)]
pub struct Concat(Vec<u8>);

/// One field of a value, understood.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Addr(IpAddr),
    Proto(u8),
    Port(u16),
    Mark(u32),
    IfName(String),
    Number(u32),
    Bytes(Vec<u8>),
}

impl DataType {
    /// nft's number for the type.
    pub const fn id(self) -> u32 {
        match self {
            Self::NfProto => 2,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark | Self::Slot => 19,
            Self::IfIndex => 20,
            Self::CtState => 26,
            Self::CtDir => 27,
            Self::CtStatus => 28,
            Self::FibAddrType => 38,
            Self::IfName => 41,
            Self::Other(id) => id as u32,
        }
    }

    pub const fn from_id(id: u32) -> Self {
        match id {
            2 => Self::NfProto,
            7 => Self::Ipv4Addr,
            8 => Self::Ipv6Addr,
            12 => Self::InetProto,
            13 => Self::InetService,
            19 => Self::Mark,
            20 => Self::IfIndex,
            26 => Self::CtState,
            27 => Self::CtDir,
            28 => Self::CtStatus,
            38 => Self::FibAddrType,
            41 => Self::IfName,
            other => Self::Other(other as u8),
        }
    }

    /// Bytes without padding; `None` for types we don't know.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::NfProto | Self::InetProto | Self::CtDir => Some(1),
            Self::InetService => Some(2),
            Self::Ipv4Addr | Self::Mark | Self::Slot | Self::IfIndex | Self::CtState | Self::CtStatus => Some(4),
            Self::FibAddrType => Some(4),
            Self::Ipv6Addr | Self::IfName => Some(16),
            Self::Other(_) => None,
        }
    }

    /// Bytes in a concatenation.
    pub fn padded_len(self) -> Option<usize> {
        self.size().map(padded)
    }

    pub const fn is_host_endian(self) -> bool {
        matches!(self, Self::Mark | Self::Slot | Self::IfIndex | Self::CtState | Self::CtStatus | Self::FibAddrType)
    }

    /// nft's name after `type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::Mark | Self::Slot => "mark",
            Self::IfName => "ifname",
            Self::IfIndex => "iface_index",
            Self::NfProto => "nf_proto",
            Self::CtState => "ct_state",
            Self::CtDir => "ct_dir",
            Self::CtStatus => "ct_status",
            Self::FibAddrType => "fib_addrtype",
            Self::Other(_) => "invalid",
        }
    }

    /// An expression of that type, after `typeof`.
    pub const fn sample(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ip daddr",
            Self::Ipv6Addr => "ip6 daddr",
            Self::InetProto => "meta l4proto",
            Self::InetService => "tcp dport",
            Self::Mark => "meta mark",
            Self::Slot => "numgen random mod 65536",
            Self::IfName => "iifname",
            Self::IfIndex => "iif",
            Self::NfProto => "meta nfproto",
            Self::CtState => "ct state",
            Self::CtDir => "ct direction",
            Self::CtStatus => "ct status",
            Self::FibAddrType => "fib daddr type",
            Self::Other(_) => "invalid",
        }
    }

    /// Reads one field. Bounds of intervals are big-endian also for types that otherwise aren't.
    pub fn read(self, bytes: &[u8], big_endian: bool) -> Field {
        let number = |bytes: &[u8]| {
            bytes.first_chunk::<4>().map(|b| if big_endian { u32::from_be_bytes(*b) } else { u32::from_ne_bytes(*b) })
        };
        let read = match self {
            Self::Ipv4Addr => bytes.first_chunk::<4>().map(|b| Field::Addr(Ipv4Addr::from(*b).into())),
            Self::Ipv6Addr => bytes.first_chunk::<16>().map(|b| Field::Addr(Ipv6Addr::from(*b).into())),
            Self::InetProto => bytes.first().map(|b| Field::Proto(*b)),
            Self::InetService => bytes.first_chunk::<2>().map(|b| Field::Port(u16::from_be_bytes(*b))),
            Self::Mark | Self::Slot => number(bytes).map(Field::Mark),
            Self::IfName => {
                let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
                std::str::from_utf8(&bytes[..end]).ok().map(|s| Field::IfName(s.to_owned()))
            }
            Self::IfIndex | Self::CtState | Self::CtStatus | Self::FibAddrType => number(bytes).map(Field::Number),
            Self::NfProto | Self::CtDir => bytes.first().map(|b| Field::Number(u32::from(*b))),
            Self::Other(_) => None,
        };
        read.unwrap_or_else(|| Field::Bytes(bytes.to_vec()))
    }
}

impl PartialEq for DataType {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for DataType {}

impl Value {
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Starts a concatenation: `Value::concat().addr(ip).proto(6).port(80).value()`.
    pub fn concat() -> Concat {
        // An IPv6 address with its protocol and port: most need no more.
        Concat(Vec::with_capacity(24))
    }

    pub fn addr(addr: impl Into<IpAddr>) -> Self {
        Self::concat().addr(addr).value()
    }

    /// A single port, without padding (as a constant or a key of its own).
    pub fn port(port: u16) -> Self {
        Self::new(port.to_be_bytes())
    }

    pub fn proto(proto: u8) -> Self {
        Self::new([proto])
    }

    pub fn mark(mark: u32) -> Self {
        Self::new(mark.to_ne_bytes())
    }

    /// An interface name; longer ones are cut like the kernel's own.
    pub fn ifname(name: &str) -> Self {
        Self::concat().ifname(name).value()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields of a value of the given types.
    pub fn fields(&self, types: &[DataType], big_endian: bool) -> Vec<Field> {
        let mut at = 0;
        let mut fields = Vec::with_capacity(types.len());
        for kind in types {
            let rest = self.0.get(at..).unwrap_or(&[]);
            let len = kind.size().unwrap_or(rest.len()).min(rest.len());
            fields.push(kind.read(&rest[..len], big_endian));
            at += padded(len);
        }
        fields
    }

    /// The number after this one, reading the bytes as one big-endian number; `None` after the last.
    pub fn successor(&self) -> Option<Self> {
        let mut bytes = self.0.clone();
        for byte in bytes.iter_mut().rev() {
            let (next, overflow) = byte.overflowing_add(1);
            *byte = next;
            if !overflow {
                return Some(Self(bytes));
            }
        }
        None
    }

    /// The number before this one; `None` before zero.
    pub fn predecessor(&self) -> Option<Self> {
        let mut bytes = self.0.clone();
        for byte in bytes.iter_mut().rev() {
            let (next, overflow) = byte.overflowing_sub(1);
            *byte = next;
            if !overflow {
                return Some(Self(bytes));
            }
        }
        None
    }
}

impl Concat {
    pub fn addr(mut self, addr: impl Into<IpAddr>) -> Self {
        match addr.into() {
            IpAddr::V4(addr) => self.0.extend_from_slice(&addr.octets()),
            IpAddr::V6(addr) => self.0.extend_from_slice(&addr.octets()),
        }
        self
    }

    pub fn proto(self, proto: u8) -> Self {
        self.padded(&[proto])
    }

    pub fn port(self, port: u16) -> Self {
        self.padded(&port.to_be_bytes())
    }

    pub fn mark(self, mark: u32) -> Self {
        self.padded(&mark.to_ne_bytes())
    }

    /// A mark in a set of intervals, whose keys are ordered as big-endian numbers.
    pub fn mark_be(self, mark: u32) -> Self {
        self.padded(&mark.to_be_bytes())
    }

    /// An index that `numgen` gives.
    pub fn slot(self, slot: u32) -> Self {
        self.mark(slot)
    }

    pub fn ifname(self, name: &str) -> Self {
        let mut bytes = [0; IFNAME_LEN];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(IFNAME_LEN - 1)) {
            *to = from;
        }
        self.padded(&bytes)
    }

    pub fn value(self) -> Value {
        Value(self.0.into_boxed_slice())
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        let len = padded(self.0.len());
        self.0.resize(len, 0);
        self
    }
}

impl From<Concat> for Value {
    fn from(concat: Concat) -> Self {
        concat.value()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Proto(proto) => match proto_name(*proto) {
                Some(name) => f.write_str(name),
                None => write!(f, "{proto}"),
            },
            Self::Port(port) => write!(f, "{port}"),
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
            Self::IfName(name) => write!(f, "\"{name}\""),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// The length of a field in a concatenation or of a register run.
pub const fn padded(len: usize) -> usize {
    (len + 3) & !3
}

/// The total length of a value of these types: a lone field is not padded.
pub fn types_len(types: &[DataType]) -> Option<usize> {
    match types {
        [one] => one.size(),
        many => many.iter().map(|t| t.padded_len()).sum(),
    }
}

/// nft's number of a concatenation: six bits for each type.
pub fn types_id(types: &[DataType]) -> u32 {
    types.iter().fold(0, |id, t| id << 6 | t.id())
}

/// The types behind a number.
pub fn types_from_id(mut id: u32) -> Types {
    let mut types = Vec::new();
    while id != 0 {
        types.insert(0, DataType::from_id(id & 0x3f));
        id >>= 6;
    }
    types
}

pub(crate) const fn proto_name(proto: u8) -> Option<&'static str> {
    match proto {
        1 => Some("icmp"),
        6 => Some("tcp"),
        17 => Some("udp"),
        58 => Some("ipv6-icmp"),
        132 => Some("sctp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_pad_each_field_and_read_back() {
        let value = Value::concat().addr([10, 0, 0, 1]).proto(6).port(80).mark(5).value();
        assert_eq!(&value.as_bytes()[..12], &[10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        let types = [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService, DataType::Mark];
        let shown: Vec<_> = value.fields(&types, false).iter().map(Field::to_string).collect();
        assert_eq!(shown, ["10.0.0.1", "tcp", "80", "0x00000005"]);
        assert_eq!(types_from_id(types_id(&types)), types.to_vec());
    }

    #[test]
    fn successors_carry() {
        assert_eq!(Value::new([0, 255]).successor(), Some(Value::new([1, 0])));
        assert_eq!(Value::new([255, 255]).successor(), None);
        assert_eq!(Value::new([1, 0]).predecessor(), Some(Value::new([0, 255])));
    }
}
