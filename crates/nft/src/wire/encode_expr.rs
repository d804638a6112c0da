//! Expressions as attributes.

use netlink::Builder;

use super::encode::{millis, write_value, write_verdict};
use super::{LIST_ELEM, nat_flag};
use crate::expr::{
    ByteOrderOp, CmpOp, Destination, Direction, DynsetOp, Expr, FibFlags, FibResult, L3, LimitKind, NatFlags, NatKind,
    NumgenKind, PayloadBase, Reg, Reject,
};

/// Writes an expression as an element of a rule's list.
pub(crate) fn write(m: &mut Builder, expr: &Expr) {
    m.nested(LIST_ELEM, |m| {
        m.text(1, name(expr));
        match expr {
            Expr::Notrack => {}
            Expr::Unknown { data, .. } => m.nested(2, |m| m.raw(data)),
            _ => m.nested(2, |m| load(m, expr)),
        }
    });
}

fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::ByteOrder { .. } => "byteorder",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Lookup { .. } => "lookup",
        Expr::Numgen { .. } => "numgen",
        Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Tproxy { .. } => "tproxy",
        Expr::Reject(_) => "reject",
        Expr::Dynset { .. } => "dynset",
        Expr::Fib { .. } => "fib",
        Expr::Counter(_) => "counter",
        Expr::Limit(_) => "limit",
        Expr::Notrack => "notrack",
        Expr::Log(_) => "log",
        Expr::Unknown { name, .. } => name,
    }
}

/// What fills registers.
fn load(m: &mut Builder, expr: &Expr) {
    match expr {
        Expr::Payload { dreg, base, offset, len } => {
            reg(m, 1, *dreg);
            m.be32(2, base_number(*base));
            m.be32(3, *offset);
            m.be32(4, *len);
        }
        Expr::Meta { dreg, key } => {
            m.be32(2, key.number());
            reg(m, 1, *dreg);
        }
        Expr::Immediate { dreg, data } => {
            reg(m, 1, *dreg);
            write_value(m, 2, data);
        }
        Expr::Ct { dreg, key, direction } => {
            m.be32(2, key.number());
            reg(m, 1, *dreg);
            if let Some(direction) = direction {
                m.u8(3, u8::from(*direction == Direction::Reply));
            }
        }
        Expr::Numgen { dreg, kind, modulus, offset } => {
            reg(m, 1, *dreg);
            m.be32(2, *modulus);
            m.be32(3, u32::from(*kind == NumgenKind::Random));
            m.be32(4, *offset);
        }
        Expr::Fib { dreg, result, flags } => {
            reg(m, 1, *dreg);
            let result = match result {
                FibResult::Oif => 1,
                FibResult::OifName => 2,
                FibResult::AddrType => 3,
            };
            m.be32(2, result);
            m.be32(3, fib_number(*flags));
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            reg(m, 1, *sreg);
            reg(m, 2, *dreg);
            m.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            write_value(m, 4, mask);
            write_value(m, 5, xor);
        }
        Expr::ByteOrder { sreg, dreg, op, len, size } => {
            reg(m, 1, *sreg);
            reg(m, 2, *dreg);
            m.be32(3, u32::from(*op == ByteOrderOp::HostToNetwork));
            m.be32(4, *len);
            m.be32(5, *size);
        }
        other => test(m, other),
    }
}

/// What reads registers and decides.
fn test(m: &mut Builder, expr: &Expr) {
    match expr {
        Expr::MetaSet { sreg, key } => {
            m.be32(2, key.number());
            reg(m, 3, *sreg);
        }
        Expr::CtSet { sreg, key } => {
            m.be32(2, key.number());
            reg(m, 4, *sreg);
        }
        Expr::Cmp { sreg, op, data } => {
            reg(m, 1, *sreg);
            m.be32(2, cmp_number(*op));
            write_value(m, 3, data);
        }
        Expr::Verdict(verdict) => {
            m.be32(1, 0);
            m.nested(2, |m| write_verdict(m, verdict));
        }
        Expr::Lookup { set, sreg, dest, invert } => {
            m.text(1, set);
            reg(m, 2, *sreg);
            match dest {
                Some(Destination::Register(dreg)) => reg(m, 3, *dreg),
                Some(Destination::Verdict) => m.be32(3, 0),
                None => {}
            }
            m.be32(5, u32::from(*invert));
        }
        Expr::Dynset { set, op, key, data, timeout } => {
            m.text(1, set);
            let op = match op {
                DynsetOp::Add => 0,
                DynsetOp::Update => 1,
                DynsetOp::Delete => 2,
            };
            m.be32(3, op);
            reg(m, 4, *key);
            if let Some(data) = data {
                reg(m, 5, *data);
            }
            if let Some(timeout) = timeout {
                m.be64(6, millis(*timeout));
            }
        }
        other => translate(m, other),
    }
}

/// What changes addresses.
fn translate(m: &mut Builder, expr: &Expr) {
    match expr {
        Expr::Nat { kind, family, addr, proto, flags } => {
            m.be32(1, u32::from(*kind == NatKind::Destination));
            m.be32(2, l3_number(*family));
            if let Some(addr) = addr {
                reg(m, 3, *addr);
            }
            if let Some(proto) = proto {
                reg(m, 5, *proto);
            }
            nat_flags(m, 7, *flags);
        }
        Expr::Masquerade { proto, flags } => {
            nat_flags(m, 1, *flags);
            if let Some(proto) = proto {
                reg(m, 2, *proto);
            }
        }
        Expr::Redirect { proto, flags } => {
            if let Some(proto) = proto {
                reg(m, 1, *proto);
            }
            nat_flags(m, 3, *flags);
        }
        Expr::Tproxy { family, port } => {
            m.be32(1, l3_number(*family));
            reg(m, 3, *port);
        }
        other => statement(m, other),
    }
}

/// The rest.
fn statement(m: &mut Builder, expr: &Expr) {
    match expr {
        Expr::Reject(how) => {
            let (kind, code) = match how {
                Reject::Icmp(code) | Reject::Icmpv6(code) => (0, *code),
                Reject::TcpReset => (1, 0),
                Reject::Icmpx(code) => (2, *code),
            };
            m.be32(1, kind);
            m.u8(2, code);
        }
        Expr::Counter(counter) => {
            m.be64(1, counter.bytes);
            m.be64(2, counter.packets);
        }
        Expr::Limit(limit) => {
            m.be64(1, limit.rate);
            m.be64(2, limit.unit);
            m.be32(3, limit.burst);
            m.be32(4, u32::from(limit.kind == LimitKind::Bytes));
            m.be32(5, u32::from(limit.over));
        }
        Expr::Log(log) => {
            if let Some(group) = log.group {
                m.be16(1, group);
            }
            if !log.prefix.is_empty() {
                m.text(2, &log.prefix);
            }
            if let Some(level) = log.level {
                m.be32(5, level);
            }
        }
        // The others were written by the callers, or have no attributes.
        _ => {}
    }
}

fn reg(m: &mut Builder, kind: u16, reg: Reg) {
    m.be32(kind, reg.number());
}

fn nat_flags(m: &mut Builder, kind: u16, flags: NatFlags) {
    let bits = [
        (flags.random, nat_flag::RANDOM),
        (flags.persistent, nat_flag::PERSISTENT),
        (flags.fully_random, nat_flag::FULLY_RANDOM),
    ];
    let bits: u32 = bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum();
    if bits != 0 {
        m.be32(kind, bits);
    }
}

fn base_number(base: PayloadBase) -> u32 {
    match base {
        PayloadBase::Link => 0,
        PayloadBase::Network => 1,
        PayloadBase::Transport => 2,
    }
}

fn cmp_number(op: CmpOp) -> u32 {
    match op {
        CmpOp::Eq => 0,
        CmpOp::Ne => 1,
        CmpOp::Lt => 2,
        CmpOp::Le => 3,
        CmpOp::Gt => 4,
        CmpOp::Ge => 5,
    }
}

fn l3_number(l3: L3) -> u32 {
    match l3 {
        L3::V4 => 2,
        L3::V6 => 10,
    }
}

fn fib_number(flags: FibFlags) -> u32 {
    let bits =
        [(flags.saddr, 1), (flags.daddr, 2), (flags.mark, 4), (flags.iif, 8), (flags.oif, 16), (flags.present, 32)];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}
