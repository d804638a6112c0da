//! Rules that read like nft's text: `Rule::new().is(Load::L4Proto, Value::proto(6)).dnat_map(V4, […], "endpoints")`.
//!
//! Each match or statement loads what it needs from word 0 on, as nft itself does, so that registers never carry over
//! from one to the next and the kernel's listing reads like what was written.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::expr::{
    ByteOrderOp, CmpOp, Counter, CtKey, Destination, Direction, DynsetOp, Expr, FibFlags, FibResult, L3, Limit, Log,
    MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, Reg, Reject, Verdict,
};
use crate::object::Rule;
use crate::value::{Value, padded};

/// Something a rule can load from the packet or its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    Saddr(L3),
    Daddr(L3),
    Sport,
    Dport,
    L4Proto,
    NfProto,
    Mark,
    /// The mark as a big-endian number, for sets of intervals.
    MarkBigEndian,
    /// `meta mark & MASK`, also as a part of a key.
    MarkMasked(u32),
    Iif,
    Oif,
    IifName,
    OifName,
    CtState,
    CtStatus,
    CtDirection,
    CtMark,
    CtOriginalSaddr(L3),
    CtOriginalDaddr(L3),
    CtOriginalDport,
    Random {
        modulus: u32,
        offset: u32,
    },
    FibDaddrType,
    Constant(Value),
}

/// `RTN_*` values of `fib daddr type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum AddrType {
    Unicast = 1,
    Local = 2,
    Broadcast = 3,
    Multicast = 5,
    Blackhole = 6,
    Unreachable = 7,
}

impl Load {
    pub fn len(&self) -> u32 {
        match self {
            Self::Saddr(l3) | Self::Daddr(l3) | Self::CtOriginalSaddr(l3) | Self::CtOriginalDaddr(l3) => l3.addr_len(),
            Self::Sport | Self::Dport | Self::CtOriginalDport => 2,
            Self::L4Proto | Self::NfProto | Self::CtDirection => 1,
            Self::IifName | Self::OifName => 16,
            Self::Constant(value) => u32::try_from(value.len()).unwrap_or(u32::MAX),
            _ => 4,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn exprs(&self, dreg: Reg, out: &mut Vec<Expr>) {
        let payload = |base, offset, len| Expr::Payload { dreg, base, offset, len };
        let meta = |key| Expr::Meta { dreg, key };
        let ct = |key, direction| Expr::Ct { dreg, key, direction };
        let original = Some(Direction::Original);
        out.push(match self {
            Self::Saddr(L3::V4) => payload(PayloadBase::Network, 12, 4),
            Self::Daddr(L3::V4) => payload(PayloadBase::Network, 16, 4),
            Self::Saddr(L3::V6) => payload(PayloadBase::Network, 8, 16),
            Self::Daddr(L3::V6) => payload(PayloadBase::Network, 24, 16),
            Self::Sport => payload(PayloadBase::Transport, 0, 2),
            Self::Dport => payload(PayloadBase::Transport, 2, 2),
            Self::L4Proto => meta(MetaKey::L4Proto),
            Self::NfProto => meta(MetaKey::NfProto),
            Self::Mark | Self::MarkBigEndian | Self::MarkMasked(_) => meta(MetaKey::Mark),
            Self::Iif => meta(MetaKey::Iif),
            Self::Oif => meta(MetaKey::Oif),
            Self::IifName => meta(MetaKey::IifName),
            Self::OifName => meta(MetaKey::OifName),
            Self::CtState => ct(CtKey::State, None),
            Self::CtStatus => ct(CtKey::Status, None),
            Self::CtDirection => ct(CtKey::Direction, None),
            Self::CtMark => ct(CtKey::Mark, None),
            Self::CtOriginalSaddr(L3::V4) => ct(CtKey::SrcIp, original),
            Self::CtOriginalSaddr(L3::V6) => ct(CtKey::SrcIp6, original),
            Self::CtOriginalDaddr(L3::V4) => ct(CtKey::DstIp, original),
            Self::CtOriginalDaddr(L3::V6) => ct(CtKey::DstIp6, original),
            Self::CtOriginalDport => ct(CtKey::ProtoDst, original),
            Self::Random { modulus, offset } => {
                Expr::Numgen { dreg, kind: NumgenKind::Random, modulus: *modulus, offset: *offset }
            }
            Self::FibDaddrType => {
                Expr::Fib { dreg, result: FibResult::AddrType, flags: FibFlags { daddr: true, ..FibFlags::default() } }
            }
            Self::Constant(value) => Expr::Immediate { dreg, data: value.clone() },
        });
        if *self == Self::MarkBigEndian {
            out.push(Expr::ByteOrder { sreg: dreg, dreg, op: ByteOrderOp::HostToNetwork, len: 4, size: 4 });
        }
        if let Self::MarkMasked(mask) = self {
            out.push(Expr::Bitwise { sreg: dreg, dreg, mask: Value::mark(*mask), xor: Value::mark(0) });
        }
    }
}

impl AddrType {
    pub fn value(self) -> Value {
        Value::new((self as u32).to_ne_bytes())
    }
}

/// Matches.
impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    /// `LOAD VALUE`
    pub fn is(self, load: Load, value: impl Into<Value>) -> Self {
        self.compare(load, CmpOp::Eq, value)
    }

    /// `LOAD != VALUE`
    pub fn is_not(self, load: Load, value: impl Into<Value>) -> Self {
        self.compare(load, CmpOp::Ne, value)
    }

    pub fn compare(mut self, load: Load, op: CmpOp, value: impl Into<Value>) -> Self {
        let sreg = self.load(&[load], 0);
        self.push(Expr::Cmp { sreg, op, data: value.into() })
    }

    /// `LOAD & MASK == VALUE`
    pub fn masked(self, load: Load, mask: impl Into<Value>, value: impl Into<Value>) -> Self {
        self.masked_compare(load, mask.into(), CmpOp::Eq, value.into())
    }

    /// `meta mark & MASK == VALUE`
    pub fn mark_is(self, mask: u32, value: u32) -> Self {
        self.masked(Load::Mark, Value::mark(mask), Value::mark(value))
    }

    /// `ct state A,B` (bits of [`crate::expr::ct_state`])
    pub fn ct_state(self, bits: u32) -> Self {
        self.masked_compare(Load::CtState, Value::mark(bits), CmpOp::Ne, Value::mark(0))
    }

    /// `ct status A,B` (bits of [`crate::expr::ct_status`])
    pub fn ct_status(self, bits: u32) -> Self {
        self.masked_compare(Load::CtStatus, Value::mark(bits), CmpOp::Ne, Value::mark(0))
    }

    pub fn ct_direction(self, direction: Direction) -> Self {
        self.is(Load::CtDirection, Value::new([direction as u8]))
    }

    /// `meta l4proto P`
    pub fn l4proto(self, proto: u8) -> Self {
        self.is(Load::L4Proto, Value::proto(proto))
    }

    /// `fib daddr type T`
    pub fn daddr_type(self, kind: AddrType) -> Self {
        self.is(Load::FibDaddrType, kind.value())
    }

    /// `LOAD NETWORK`, where LOAD is an address
    pub fn within(self, load: Load, net: IpNet) -> Self {
        self.network(load, CmpOp::Eq, net)
    }

    /// `LOAD != NETWORK`
    pub fn outside(self, load: Load, net: IpNet) -> Self {
        self.network(load, CmpOp::Ne, net)
    }

    /// `A . B @SET`
    pub fn in_set(mut self, key: &[Load], set: impl Into<String>) -> Self {
        let sreg = self.load(key, 0);
        self.push(Expr::Lookup { set: set.into(), sreg, dest: None, invert: false })
    }

    /// `A . B != @SET`
    pub fn not_in_set(mut self, key: &[Load], set: impl Into<String>) -> Self {
        let sreg = self.load(key, 0);
        self.push(Expr::Lookup { set: set.into(), sreg, dest: None, invert: true })
    }

    pub fn limit(self, limit: Limit) -> Self {
        self.push(Expr::Limit(limit))
    }
}

/// Statements.
impl Rule {
    /// `A . B vmap @MAP`
    pub fn vmap(mut self, key: &[Load], map: impl Into<String>) -> Self {
        let sreg = self.load(key, 0);
        self.push(Expr::Lookup { set: map.into(), sreg, dest: Some(Destination::Verdict), invert: false })
    }

    /// `meta mark set A . B map @MAP`
    pub fn set_mark_from_map(mut self, key: &[Load], map: impl Into<String>) -> Self {
        let sreg = self.lookup(key, map);
        self.push(Expr::MetaSet { sreg, key: MetaKey::Mark })
    }

    /// `meta mark set VALUE`
    pub fn set_mark(self, mark: u32) -> Self {
        self.set_mark_from(Load::Constant(Value::mark(mark)))
    }

    /// `meta mark set LOAD` (a constant, `ct mark`, …)
    pub fn set_mark_from(mut self, load: Load) -> Self {
        let sreg = self.load(&[load], 0);
        self.push(Expr::MetaSet { sreg, key: MetaKey::Mark })
    }

    /// `meta mark set meta mark & MASK ^ XOR`: `(!bits, bits)` sets bits, `(!bits, 0)` clears them.
    pub fn change_mark(mut self, mask: u32, xor: u32) -> Self {
        let sreg = self.load(&[Load::Mark], 0);
        self.push(Expr::Bitwise { sreg, dreg: sreg, mask: Value::mark(mask), xor: Value::mark(xor) })
            .push(Expr::MetaSet { sreg, key: MetaKey::Mark })
    }

    /// `ct mark set LOAD`
    pub fn set_ct_mark_from(mut self, load: Load) -> Self {
        let sreg = self.load(&[load], 0);
        self.push(Expr::CtSet { sreg, key: CtKey::Mark })
    }

    /// `dnat ip to A . B map @MAP`, where the map holds address and port
    pub fn dnat_map(mut self, family: L3, key: &[Load], map: impl Into<String>) -> Self {
        let addr = self.lookup(key, map);
        let proto = words_after(addr, family.addr_len());
        let flags = NatFlags::default();
        self.push(Expr::Nat { kind: NatKind::Destination, family, addr: Some(addr), proto: Some(proto), flags })
    }

    /// `dnat to ADDRESS:PORT`
    pub fn dnat(self, to: SocketAddr) -> Self {
        self.nat(NatKind::Destination, to.ip(), Some(to.port()), NatFlags::default())
    }

    /// `snat to ADDRESS`
    pub fn snat(self, to: IpAddr) -> Self {
        self.nat(NatKind::Source, to, None, NatFlags::default())
    }

    pub fn masquerade(self) -> Self {
        self.push(Expr::Masquerade { proto: None, flags: NatFlags::default() })
    }

    /// `masquerade fully-random`: no two connections race for one source port.
    pub fn masquerade_fully_random(self) -> Self {
        self.push(Expr::Masquerade { proto: None, flags: NatFlags { fully_random: true, ..NatFlags::default() } })
    }

    /// `redirect to :PORT`
    pub fn redirect(mut self, port: u16) -> Self {
        let proto = self.load(&[Load::Constant(Value::port(port))], 0);
        self.push(Expr::Redirect { proto: Some(proto), flags: NatFlags::default() })
    }

    /// `tproxy to :PORT`: to the transparent socket that listens there.
    pub fn tproxy(mut self, family: L3, port: u16) -> Self {
        let port = self.load(&[Load::Constant(Value::port(port))], 0);
        self.push(Expr::Tproxy { family, port })
    }

    /// `tcp flags & (fin | syn | rst | ack) == syn`: asks for a connection.
    pub fn tcp_syn(self) -> Self {
        const FLAGS: u32 = 13;
        let dreg = Reg::ZERO;
        let (mask, syn) = (Value::new([0x17]), Value::new([0x02]));
        self.l4proto(6)
            .push(Expr::Payload { dreg, base: PayloadBase::Transport, offset: FLAGS, len: 1 })
            .push(Expr::Bitwise { sreg: dreg, dreg, mask, xor: Value::new([0]) })
            .push(Expr::Cmp { sreg: dreg, op: CmpOp::Eq, data: syn })
    }

    /// `icmp type` or `icmpv6 type`.
    pub fn icmp_type(self, family: L3, kind: u8) -> Self {
        let dreg = Reg::ZERO;
        let proto = if family == L3::V4 { 1 } else { 58 };
        self.l4proto(proto)
            .push(Expr::Payload { dreg, base: PayloadBase::Transport, offset: 0, len: 1 })
            .push(Expr::Cmp { sreg: dreg, op: CmpOp::Eq, data: Value::new([kind]) })
    }

    /// `update @SET { KEY timeout T : DATA }`
    pub fn update(self, set: impl Into<String>, key: &[Load], data: &[Load], timeout: Option<Duration>) -> Self {
        self.dynset(DynsetOp::Update, set, key, data, timeout)
    }

    /// `add`, `update` or `delete @SET { KEY timeout T : DATA }`
    pub fn dynset(
        mut self,
        op: DynsetOp,
        set: impl Into<String>,
        key: &[Load],
        data: &[Load],
        timeout: Option<Duration>,
    ) -> Self {
        let first = self.load(key, 0);
        let key_words = key.iter().map(|l| words(l.len())).sum::<usize>();
        let data = (!data.is_empty()).then(|| self.load(data, key_words.next_multiple_of(4)));
        self.push(Expr::Dynset { set: set.into(), op, key: first, data, timeout })
    }

    pub fn reject(self, how: Reject) -> Self {
        self.push(Expr::Reject(how))
    }

    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    pub fn drop_packet(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Jump(chain.into()))
    }

    pub fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(Verdict::Goto(chain.into()))
    }

    pub fn return_(self) -> Self {
        self.verdict(Verdict::Return)
    }

    pub fn verdict(self, verdict: Verdict) -> Self {
        self.push(Expr::Verdict(verdict))
    }

    pub fn counter(self) -> Self {
        self.push(Expr::Counter(Counter::default()))
    }

    pub fn notrack(self) -> Self {
        self.push(Expr::Notrack)
    }

    pub fn log(self, log: Log) -> Self {
        self.push(Expr::Log(log))
    }

    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    pub fn push(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    fn masked_compare(mut self, load: Load, mask: Value, op: CmpOp, data: Value) -> Self {
        if mask.as_bytes().iter().all(|byte| *byte == 0xff) {
            return self.compare(load, op, data);
        }
        let sreg = self.load(&[load], 0);
        let xor = Value::new(vec![0; mask.len()]);
        self.push(Expr::Bitwise { sreg, dreg: sreg, mask, xor }).push(Expr::Cmp { sreg, op, data })
    }

    fn network(self, load: Load, op: CmpOp, net: IpNet) -> Self {
        let full = net.prefix_len() == net.max_prefix_len();
        let data = Value::addr(net.network());
        if full {
            self.compare(load, op, data)
        } else {
            self.masked_compare(load, Value::addr(net.netmask()), op, data)
        }
    }

    fn nat(mut self, kind: NatKind, to: IpAddr, port: Option<u16>, flags: NatFlags) -> Self {
        let addr = self.load(&[Load::Constant(Value::addr(to))], 0);
        let proto = port.map(|port| self.load(&[Load::Constant(Value::port(port))], 4));
        self.push(Expr::Nat { kind, family: L3::of(to), addr: Some(addr), proto, flags })
    }

    fn lookup(&mut self, key: &[Load], map: impl Into<String>) -> Reg {
        let sreg = self.load(key, 0);
        let dest = Some(Destination::Register(sreg));
        self.exprs.push(Expr::Lookup { set: map.into(), sreg, dest, invert: false });
        sreg
    }

    /// Loads into consecutive words from `word` on. What doesn't fit is loaded into the last word, where the kernel
    /// (and the fake) refuse it for overrunning the registers.
    fn load(&mut self, loads: &[Load], word: usize) -> Reg {
        let first = reg_at(word);
        let mut word = word;
        for load in loads {
            load.exprs(reg_at(word), &mut self.exprs);
            word += words(load.len());
        }
        first
    }
}

fn words(len: u32) -> usize {
    padded(len as usize) / 4
}

fn words_after(reg: Reg, len: u32) -> Reg {
    reg_at(reg.index() + words(len))
}

fn reg_at(word: usize) -> Reg {
    let last = usize::from(Reg::WORDS - 1);
    // The word is at most 15 here.
    Reg::word(word.min(last) as u8).unwrap_or(Reg::ZERO)
}
