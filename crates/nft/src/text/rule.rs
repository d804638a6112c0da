//! A rule's text, found by following what its expressions put into the registers.
//!
//! A load is remembered as the words it would have in nft's language; whatever consumes registers (a comparison, a
//! lookup, a statement) prints them.

use std::fmt::{self, Formatter};
use std::net::IpAddr;

use super::{Span, show_value};
use crate::expr::{
    CmpOp, CtKey, Destination, Direction, DynsetOp, Expr, FibFlags, FibResult, L3, Limit, LimitKind, Log, MetaKey,
    NatFlags, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use crate::object::Rule;
use crate::value::{DataType, Value, padded};

/// What a register holds, in words.
#[derive(Debug, Clone)]
struct Symbol {
    text: String,
    kind: Option<DataType>,
    words: usize,
    mask: Option<(Value, Value)>,
    constant: Option<Value>,
}

#[derive(Default)]
struct Registers([Option<Symbol>; Reg::WORDS as usize]);

pub(super) fn write_rule(f: &mut Formatter<'_>, rule: &Rule) -> fmt::Result {
    let mut registers = Registers::default();
    let mut parts: Vec<String> = rule.exprs.iter().filter_map(|expr| part(&mut registers, expr)).collect();
    if let Some(comment) = &rule.comment {
        parts.push(format!("comment \"{comment}\""));
    }
    f.write_str(&parts.join(" "))
}

/// The text an expression adds; `None` for those that only load.
fn part(registers: &mut Registers, expr: &Expr) -> Option<String> {
    if let Some((dreg, symbol)) = load(registers, expr) {
        registers.set(dreg, symbol);
        return None;
    }
    Some(match expr {
        Expr::Cmp { sreg, op, data } => compare(registers, *sreg, *op, data),
        Expr::Lookup { set, sreg, dest, invert } => match dest {
            Some(Destination::Verdict) => format!("{} vmap @{set}", registers.key(*sreg, None)),
            _ => format!("{} {}@{set}", registers.key(*sreg, None), if *invert { "!= " } else { "" }),
        },
        Expr::Verdict(verdict) => verdict.to_string(),
        Expr::MetaSet { sreg, key } => format!("{} set {}", meta_name(*key), registers.value(*sreg)),
        Expr::CtSet { sreg, key } => format!("ct {} set {}", ct_name(*key), registers.value(*sreg)),
        Expr::Nat { kind, family, addr, proto, flags } => nat(registers, *kind, *family, *addr, *proto, *flags),
        Expr::Masquerade { proto, flags } => with_port(registers, "masquerade", *proto, *flags),
        Expr::Redirect { proto, flags } => with_port(registers, "redirect", *proto, *flags),
        Expr::Tproxy { family, port } => {
            format!("tproxy {} to :{}", family.name(), port_text(&registers.take(*port)))
        }
        Expr::Reject(how) => reject(*how),
        Expr::Dynset { set, op, key, data, timeout } => {
            let verb = match op {
                DynsetOp::Add => "add",
                DynsetOp::Update => "update",
                DynsetOp::Delete => "delete",
            };
            let timeout = timeout.map(|t| format!(" timeout {}", Span(t))).unwrap_or_default();
            let shown = registers.key(*key, *data);
            let data = data.map(|data| format!(" : {}", registers.key(data, None))).unwrap_or_default();
            format!("{verb} @{set} {{ {shown}{timeout}{data} }}")
        }
        Expr::Counter(_) => "counter".to_owned(),
        Expr::Limit(limit) => limit_text(limit),
        Expr::Notrack => "notrack".to_owned(),
        Expr::Log(log) => log_text(log),
        Expr::Unknown { name, .. } => format!("# unknown expression {name}\n"),
        // The rest only loads.
        _ => return None,
    })
}

fn load(registers: &mut Registers, expr: &Expr) -> Option<(Reg, Symbol)> {
    Some(match expr {
        Expr::Payload { dreg, base, offset, len } => (*dreg, payload(*base, *offset, *len)),
        Expr::Meta { dreg, key } => (*dreg, Symbol::new(meta_name(*key), meta_type(*key))),
        Expr::Ct { dreg, key, direction } => (*dreg, ct(*key, *direction)),
        Expr::Numgen { dreg, kind, modulus, offset } => {
            let kind = match kind {
                NumgenKind::Incremental => "inc",
                NumgenKind::Random => "random",
            };
            let offset = if *offset == 0 { String::new() } else { format!(" offset {offset}") };
            (*dreg, Symbol::new(format!("numgen {kind} mod {modulus}{offset}"), DataType::Slot))
        }
        Expr::Fib { dreg, result, flags } => (*dreg, fib(*result, *flags)),
        Expr::Immediate { dreg, data } => {
            let words = padded(data.len()) / 4;
            (*dreg, Symbol { text: String::new(), kind: None, words, mask: None, constant: Some(data.clone()) })
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            let mut symbol = registers.take(*sreg);
            symbol.mask = Some((mask.clone(), xor.clone()));
            (*dreg, symbol)
        }
        Expr::ByteOrder { sreg, dreg, .. } => (*dreg, registers.take(*sreg)),
        Expr::Lookup { set, sreg, dest: Some(Destination::Register(dreg)), .. } => {
            let text = format!("{} map @{set}", registers.key(*sreg, None));
            (*dreg, Symbol { text, kind: None, words: 1, mask: None, constant: None })
        }
        _ => return None,
    })
}

impl Symbol {
    fn new(text: impl Into<String>, kind: DataType) -> Self {
        let words = kind.padded_len().unwrap_or(4) / 4;
        Self { text: text.into(), kind: Some(kind), words, mask: None, constant: None }
    }

    /// The symbol as an expression; a constant shows as a number or an address by its length.
    fn expression(&self) -> String {
        match (&self.constant, &self.mask) {
            (Some(value), _) => constant_by_length(value),
            (None, Some((mask, xor))) => {
                let (mask, xor) = (number(mask), number(xor));
                match (mask, xor) {
                    (u32::MAX, xor) => format!("{} ^ {xor:#010x}", self.text),
                    (mask, 0) => format!("{} & {mask:#010x}", self.text),
                    (mask, xor) => format!("{} & {mask:#010x} ^ {xor:#010x}", self.text),
                }
            }
            (None, None) => self.text.clone(),
        }
    }
}

impl Registers {
    fn set(&mut self, reg: Reg, symbol: Symbol) {
        if let Some(slot) = self.0.get_mut(reg.index()) {
            *slot = Some(symbol);
        }
    }

    fn take(&mut self, reg: Reg) -> Symbol {
        self.0.get_mut(reg.index()).and_then(Option::take).unwrap_or_else(|| Symbol {
            text: format!("reg {}", reg.number()),
            kind: None,
            words: 1,
            mask: None,
            constant: None,
        })
    }

    fn value(&mut self, reg: Reg) -> String {
        self.take(reg).expression()
    }

    /// The fields of a concatenation, from a register to the first gap or to `end`.
    fn key(&mut self, reg: Reg, end: Option<Reg>) -> String {
        let mut fields = vec![];
        let mut at = reg.index();
        let end = end.map_or(usize::from(Reg::WORDS), Reg::index);
        while at < end {
            let Some(symbol) = self.0.get_mut(at).and_then(Option::take) else { break };
            at += symbol.words.max(1);
            fields.push(symbol.expression());
        }
        fields.join(" . ")
    }
}

fn compare(registers: &mut Registers, sreg: Reg, op: CmpOp, data: &Value) -> String {
    let symbol = registers.take(sreg);
    let negation = match op {
        CmpOp::Eq => "",
        CmpOp::Ne => "!= ",
        CmpOp::Lt => "< ",
        CmpOp::Le => "<= ",
        CmpOp::Gt => "> ",
        CmpOp::Ge => ">= ",
    };
    let text = &symbol.text;
    let kind = symbol.kind.unwrap_or(DataType::Other(0));
    if let Some((mask, _)) = &symbol.mask {
        match kind {
            DataType::CtState | DataType::CtStatus if number(data) == 0 && op == CmpOp::Ne => {
                return format!("{text} {}", bits(kind, number(mask)));
            }
            DataType::Ipv4Addr | DataType::Ipv6Addr => {
                let shown = show_value(data, &[kind]);
                return match prefix_len(mask) {
                    Some(len) => format!("{text} {negation}{shown}/{len}"),
                    None => format!("{text} & {} {negation}{shown}", show_value(mask, &[kind])),
                };
            }
            _ => {
                let op = if op == CmpOp::Eq { "== " } else { negation };
                return format!("{} {op}{}", symbol.expression(), show_value(data, &[kind]));
            }
        }
    }
    format!("{text} {negation}{}", constant(data, kind))
}

fn constant(data: &Value, kind: DataType) -> String {
    match kind {
        DataType::CtDir => if data.as_bytes() == [0] { "original" } else { "reply" }.to_owned(),
        DataType::CtState | DataType::CtStatus => bits(kind, number(data)),
        DataType::FibAddrType => match number(data) {
            1 => "unicast".to_owned(),
            2 => "local".to_owned(),
            3 => "broadcast".to_owned(),
            5 => "multicast".to_owned(),
            6 => "blackhole".to_owned(),
            7 => "unreachable".to_owned(),
            other => other.to_string(),
        },
        DataType::NfProto => match data.as_bytes() {
            [2] => "ipv4".to_owned(),
            [10] => "ipv6".to_owned(),
            other => format!("{other:?}"),
        },
        // A name without its ending zeroes matches as a prefix.
        DataType::IfName if data.len() < crate::value::IFNAME_LEN => {
            format!("\"{}*\"", String::from_utf8_lossy(data.as_bytes()))
        }
        kind => show_value(data, &[kind]),
    }
}

fn bits(kind: DataType, mask: u32) -> String {
    let names: &[(u32, &str)] = match kind {
        DataType::CtState => &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")],
        _ => &[(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat")],
    };
    let known = names.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name);
    known.collect::<Vec<_>>().join(",")
}

fn payload(base: PayloadBase, offset: u32, len: u32) -> Symbol {
    let known = match (base, offset, len) {
        (PayloadBase::Network, 12, 4) => ("ip saddr", DataType::Ipv4Addr),
        (PayloadBase::Network, 16, 4) => ("ip daddr", DataType::Ipv4Addr),
        (PayloadBase::Network, 8, 16) => ("ip6 saddr", DataType::Ipv6Addr),
        (PayloadBase::Network, 24, 16) => ("ip6 daddr", DataType::Ipv6Addr),
        (PayloadBase::Transport, 0, 2) => ("th sport", DataType::InetService),
        (PayloadBase::Transport, 2, 2) => ("th dport", DataType::InetService),
        _ => {
            let base = match base {
                PayloadBase::Link => "ll",
                PayloadBase::Network => "nh",
                PayloadBase::Transport => "th",
            };
            let text = format!("@{base},{},{}", offset * 8, len * 8);
            let words = padded(len as usize) / 4;
            return Symbol { text, kind: None, words, mask: None, constant: None };
        }
    };
    Symbol::new(known.0, known.1)
}

fn ct(key: CtKey, direction: Option<Direction>) -> Symbol {
    let kind = match key {
        CtKey::State => DataType::CtState,
        CtKey::Direction => DataType::CtDir,
        CtKey::Status => DataType::CtStatus,
        CtKey::Mark => DataType::Mark,
        CtKey::ProtoSrc | CtKey::ProtoDst => DataType::InetService,
        CtKey::SrcIp | CtKey::DstIp => DataType::Ipv4Addr,
        CtKey::SrcIp6 | CtKey::DstIp6 => DataType::Ipv6Addr,
    };
    let direction = match direction {
        Some(Direction::Original) => "original ",
        Some(Direction::Reply) => "reply ",
        None => "",
    };
    Symbol::new(format!("ct {direction}{}", ct_name(key)), kind)
}

fn fib(result: FibResult, flags: FibFlags) -> Symbol {
    let parts =
        [(flags.saddr, "saddr"), (flags.daddr, "daddr"), (flags.mark, "mark"), (flags.iif, "iif"), (flags.oif, "oif")];
    let tuple: Vec<_> = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let (result, kind) = match result {
        FibResult::Oif => ("oif", DataType::IfIndex),
        FibResult::OifName => ("oifname", DataType::IfName),
        FibResult::AddrType => ("type", DataType::FibAddrType),
    };
    Symbol::new(format!("fib {} {result}", tuple.join(" . ")), kind)
}

fn nat(
    registers: &mut Registers,
    kind: NatKind,
    family: L3,
    addr: Option<Reg>,
    proto: Option<Reg>,
    flags: NatFlags,
) -> String {
    let verb = match kind {
        NatKind::Source => "snat",
        NatKind::Destination => "dnat",
    };
    let addr = addr.map(|reg| registers.take(reg));
    let port = proto.and_then(|reg| registers.0.get_mut(reg.index()).and_then(Option::take));
    let port = port.as_ref().map(port_text);
    let target = match (addr, port) {
        (Some(addr), port) => match addr.constant.as_ref().and_then(as_addr) {
            Some(IpAddr::V6(addr)) => match port {
                Some(port) => format!("[{addr}]:{port}"),
                None => addr.to_string(),
            },
            Some(IpAddr::V4(addr)) => port.map_or_else(|| addr.to_string(), |port| format!("{addr}:{port}")),
            None => port.map_or_else(|| addr.expression(), |port| format!("{}:{port}", addr.expression())),
        },
        (None, port) => format!(":{}", port.unwrap_or_default()),
    };
    format!("{verb} {} to {target}{}", family.name(), flags_text(flags))
}

fn with_port(registers: &mut Registers, verb: &str, proto: Option<Reg>, flags: NatFlags) -> String {
    let port = proto.map(|reg| format!(" to :{}", port_text(&registers.take(reg)))).unwrap_or_default();
    format!("{verb}{port}{}", flags_text(flags))
}

fn port_text(symbol: &Symbol) -> String {
    match &symbol.constant {
        Some(value) => show_value(value, &[DataType::InetService]),
        None => symbol.expression(),
    }
}

fn flags_text(flags: NatFlags) -> String {
    let names = [(flags.random, "random"), (flags.fully_random, "fully-random"), (flags.persistent, "persistent")];
    let names: Vec<_> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) }
}

fn reject(how: Reject) -> String {
    let coded = |family: &str, names: &[(u8, &str)], code: u8| match names.iter().find(|(c, _)| *c == code) {
        Some((_, name)) => format!("reject with {family} {name}"),
        None => format!("reject with {family} {code}"),
    };
    let icmp = [
        (0, "net-unreachable"),
        (1, "host-unreachable"),
        (2, "prot-unreachable"),
        (3, "port-unreachable"),
        (9, "net-prohibited"),
        (10, "host-prohibited"),
        (13, "admin-prohibited"),
    ];
    let icmpv6 = [(0, "no-route"), (1, "admin-prohibited"), (3, "addr-unreachable"), (4, "port-unreachable")];
    let icmpx = [(0, "no-route"), (1, "port-unreachable"), (2, "host-unreachable"), (3, "admin-prohibited")];
    match how {
        Reject::Icmp(code) => coded("icmp", &icmp, code),
        Reject::Icmpv6(code) => coded("icmpv6", &icmpv6, code),
        Reject::Icmpx(code) => coded("icmpx", &icmpx, code),
        Reject::TcpReset => "reject with tcp reset".to_owned(),
    }
}

fn limit_text(limit: &Limit) -> String {
    let unit = match limit.unit {
        1 => "second",
        60 => "minute",
        3600 => "hour",
        86400 => "day",
        _ => "week",
    };
    let over = if limit.over { "over " } else { "" };
    match limit.kind {
        LimitKind::Packets => format!("limit rate {over}{}/{unit} burst {} packets", limit.rate, limit.burst),
        LimitKind::Bytes => format!("limit rate {over}{} bytes/{unit} burst {} bytes", limit.rate, limit.burst),
    }
}

fn log_text(log: &Log) -> String {
    const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    let prefix = if log.prefix.is_empty() { String::new() } else { format!(" prefix \"{}\"", log.prefix) };
    let group = log.group.map(|group| format!(" group {group}")).unwrap_or_default();
    let level = log.level.and_then(|level| LEVELS.get(level as usize));
    let level = level.map(|level| format!(" level {level}")).unwrap_or_default();
    format!("log{prefix}{level}{group}")
}

fn meta_name(key: MetaKey) -> &'static str {
    match key {
        MetaKey::Mark => "meta mark",
        MetaKey::Iif => "iif",
        MetaKey::Oif => "oif",
        MetaKey::IifName => "iifname",
        MetaKey::OifName => "oifname",
        MetaKey::NfProto => "meta nfproto",
        MetaKey::L4Proto => "meta l4proto",
    }
}

fn meta_type(key: MetaKey) -> DataType {
    match key {
        MetaKey::Mark => DataType::Mark,
        MetaKey::Iif | MetaKey::Oif => DataType::IfIndex,
        MetaKey::IifName | MetaKey::OifName => DataType::IfName,
        MetaKey::NfProto => DataType::NfProto,
        MetaKey::L4Proto => DataType::InetProto,
    }
}

fn ct_name(key: CtKey) -> &'static str {
    match key {
        CtKey::State => "state",
        CtKey::Direction => "direction",
        CtKey::Status => "status",
        CtKey::Mark => "mark",
        CtKey::ProtoSrc => "proto-src",
        CtKey::ProtoDst => "proto-dst",
        CtKey::SrcIp => "ip saddr",
        CtKey::DstIp => "ip daddr",
        CtKey::SrcIp6 => "ip6 saddr",
        CtKey::DstIp6 => "ip6 daddr",
    }
}

fn number(value: &Value) -> u32 {
    value.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn as_addr(value: &Value) -> Option<IpAddr> {
    match value.len() {
        4 => value.as_bytes().first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => value.as_bytes().first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

fn constant_by_length(value: &Value) -> String {
    match value.len() {
        1 => show_value(value, &[DataType::InetProto]),
        2 => show_value(value, &[DataType::InetService]),
        4 => show_value(value, &[DataType::Mark]),
        16 => show_value(value, &[DataType::Ipv6Addr]),
        _ => format!("{value:?}"),
    }
}

/// The length of a mask that is a prefix.
fn prefix_len(mask: &Value) -> Option<u32> {
    let ones: u32 = mask.as_bytes().iter().map(|byte| byte.count_ones()).sum();
    let leading = mask.as_bytes().iter().take_while(|byte| **byte == 0xff).count();
    let next = mask.as_bytes().get(leading).map_or(0, |byte| byte.leading_ones());
    (ones == u32::try_from(leading * 8).ok()? + next).then_some(ones)
}
