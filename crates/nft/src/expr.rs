//! Expressions, the kernel's instructions, under the kernel's names.
//!
//! Most rules are written with [`crate::rule`]'s constructors, which allocate registers; this is what they become and
//! what is read back.

use std::time::Duration;

use crate::value::Value;

/// A register: sixteen words of four bytes. What the kernel calls registers 1 to 4 are the words 0, 4, 8 and 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadBase {
    Link,
    Network,
    Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaKey {
    Mark,
    Iif,
    Oif,
    IifName,
    OifName,
    NfProto,
    L4Proto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtKey {
    State,
    Direction,
    Status,
    Mark,
    ProtoSrc,
    ProtoDst,
    SrcIp,
    DstIp,
    SrcIp6,
    DstIp6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Original,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByteOrderOp {
    NetworkToHost,
    HostToNetwork,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumgenKind {
    Incremental,
    Random,
}

/// Where a lookup puts what a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    Register(Reg),
    Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    Source,
    Destination,
}

/// The layer-3 protocol of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L3 {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatFlags {
    pub random: bool,
    pub fully_random: bool,
    pub persistent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// ICMP destination unreachable with a code.
    Icmp(u8),
    Icmpv6(u8),
    TcpReset,
    /// The abstract codes of the inet family.
    Icmpx(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DynsetOp {
    Add,
    Update,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibResult {
    Oif,
    OifName,
    AddrType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FibFlags {
    pub saddr: bool,
    pub daddr: bool,
    pub mark: bool,
    pub iif: bool,
    pub oif: bool,
    pub present: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    Packets,
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    pub rate: u64,
    /// The period of the rate in seconds.
    pub unit: u64,
    pub burst: u32,
    pub kind: LimitKind,
    /// Matches above the rate instead of below.
    pub over: bool,
}

/// What a counter has seen. All counters are equal: their numbers are observations, not intent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Log {
    pub prefix: String,
    /// The kernel log's level (0 to 7); 4 is "warn", its default.
    pub level: Option<u32>,
    /// An nflog group instead of the kernel log.
    pub group: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Payload {
        dreg: Reg,
        base: PayloadBase,
        offset: u32,
        len: u32,
    },
    Meta {
        dreg: Reg,
        key: MetaKey,
    },
    MetaSet {
        sreg: Reg,
        key: MetaKey,
    },
    Cmp {
        sreg: Reg,
        op: CmpOp,
        data: Value,
    },
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Value,
        xor: Value,
    },
    ByteOrder {
        sreg: Reg,
        dreg: Reg,
        op: ByteOrderOp,
        len: u32,
        size: u32,
    },
    Immediate {
        dreg: Reg,
        data: Value,
    },
    Verdict(Verdict),
    Lookup {
        set: String,
        sreg: Reg,
        dest: Option<Destination>,
        invert: bool,
    },
    Numgen {
        dreg: Reg,
        kind: NumgenKind,
        modulus: u32,
        offset: u32,
    },
    Ct {
        dreg: Reg,
        key: CtKey,
        direction: Option<Direction>,
    },
    CtSet {
        sreg: Reg,
        key: CtKey,
    },
    Nat {
        kind: NatKind,
        family: L3,
        addr: Option<Reg>,
        proto: Option<Reg>,
        flags: NatFlags,
    },
    Masquerade {
        proto: Option<Reg>,
        flags: NatFlags,
    },
    Redirect {
        proto: Option<Reg>,
        flags: NatFlags,
    },
    /// Hands the packet to a transparent socket on a port here, its addresses unchanged.
    Tproxy {
        family: L3,
        port: Reg,
    },
    Reject(Reject),
    Dynset {
        set: String,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout: Option<Duration>,
    },
    Fib {
        dreg: Reg,
        result: FibResult,
        flags: FibFlags,
    },
    Counter(Counter),
    Limit(Limit),
    Notrack,
    Log(Log),
    /// An expression of somebody else's rule, kept as it came, or one of xtables.
    Unknown {
        name: String,
        data: Vec<u8>,
    },
}

/// Bits of `ct state`.
pub mod ct_state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status`.
pub mod ct_status {
    pub const SEEN_REPLY: u32 = 2;
    pub const ASSURED: u32 = 4;
    pub const CONFIRMED: u32 = 8;
    pub const SNAT: u32 = 16;
    pub const DNAT: u32 = 32;
}

impl Reg {
    pub const WORDS: u8 = 16;
    pub const ZERO: Self = Self(0);

    /// The register that starts at a word; `None` beyond the last.
    pub const fn word(word: u8) -> Option<Self> {
        if word < Self::WORDS { Some(Self(word)) } else { None }
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The kernel's number.
    pub const fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + (self.0 / 4) as u32 } else { 8 + self.0 as u32 }
    }

    /// From the kernel's number; register 0, the verdict, is not a data register.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

impl L3 {
    pub const fn of(addr: std::net::IpAddr) -> Self {
        match addr {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
        }
    }

    pub const fn addr_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

impl PartialEq for Counter {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Counter {}
