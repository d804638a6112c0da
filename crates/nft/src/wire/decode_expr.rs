//! Expressions from attributes. What we don't know, or know only in part, is kept as [`Expr::Unknown`].

use std::time::Duration;

use netlink::{Attribute, Attributes, ParseError};

use super::decode::{read_value, read_verdict};
use super::{DATA_VERDICT, nat_flag};
use crate::expr::{
    ByteOrderOp, CmpOp, Counter, CtKey, Destination, Direction, DynsetOp, Expr, FibFlags, FibResult, L3, Limit,
    LimitKind, Log, MetaKey, NatFlags, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use crate::object::Family;

/// The kernel log level that rules get which name none.
const DEFAULT_LOG_LEVEL: u32 = 4;

pub(crate) fn read(family: Family, element: &Attribute<'_>) -> Result<Expr, ParseError> {
    let attributes = element.nested();
    let name = attributes.require(1, "expression")?.text()?;
    let data = attributes.find(2)?.map_or(&[][..], |attribute| attribute.payload);
    let known = known(family, name, &Attributes::new(data)).ok().flatten();
    Ok(known.unwrap_or_else(|| Expr::Unknown { name: name.to_owned(), data: data.to_vec() }))
}

fn known(family: Family, name: &str, a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    match name {
        "payload" => payload(a),
        "meta" => meta(a),
        "cmp" => cmp(a),
        "bitwise" => bitwise(a),
        "byteorder" => byteorder(a),
        "immediate" => immediate(a),
        "lookup" => lookup(a),
        "numgen" => numgen(a),
        "ct" => ct(a),
        "nat" => nat(a),
        "masq" => {
            let (proto, flags) = ports_and_flags(a, 2, 3, 1)?;
            Ok(Some(Expr::Masquerade { proto, flags }))
        }
        "redir" => {
            let (proto, flags) = ports_and_flags(a, 1, 2, 3)?;
            Ok(Some(Expr::Redirect { proto, flags }))
        }
        "tproxy" => tproxy(a),
        "reject" => reject(family, a),
        "dynset" => dynset(a),
        "fib" => fib(a),
        "counter" => Ok(Some(Expr::Counter(Counter { bytes: number64(a, 1)?, packets: number64(a, 2)? }))),
        "limit" => limit(a),
        "notrack" => Ok(Some(Expr::Notrack)),
        "log" => log(a),
        _ => Ok(None),
    }
}

fn payload(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let base = match number(a, 2)? {
        0 => PayloadBase::Link,
        1 => PayloadBase::Network,
        2 => PayloadBase::Transport,
        _ => return Ok(None),
    };
    // With a source register it writes to the packet, which we never do.
    let Some(dreg) = optional_reg(a, 1)? else { return Ok(None) };
    let (offset, len) = (number(a, 3)?, number(a, 4)?);
    // Beyond any packet's headers, or more than all registers hold.
    if offset > u32::from(u16::MAX) || len > 4 * u32::from(Reg::WORDS) {
        return Ok(None);
    }
    Ok(Some(Expr::Payload { dreg, base, offset, len }))
}

fn meta(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let wanted = number(a, 2)?;
    let Some(key) = MetaKey::ALL.into_iter().find(|key| key.number() == wanted) else { return Ok(None) };
    Ok(match (optional_reg(a, 1)?, optional_reg(a, 3)?) {
        (Some(dreg), None) => Some(Expr::Meta { dreg, key }),
        (None, Some(sreg)) => Some(Expr::MetaSet { sreg, key }),
        _ => None,
    })
}

fn cmp(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let op = match number(a, 2)? {
        0 => CmpOp::Eq,
        1 => CmpOp::Ne,
        2 => CmpOp::Lt,
        3 => CmpOp::Le,
        4 => CmpOp::Gt,
        5 => CmpOp::Ge,
        _ => return Ok(None),
    };
    Ok(Some(Expr::Cmp { sreg: reg(a, 1)?, op, data: read_value(&a.require(3, "cmp")?)? }))
}

fn bitwise(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let (Some(mask), Some(xor)) = (a.find(4)?, a.find(5)?) else { return Ok(None) };
    let (mask, xor) = (read_value(&mask)?, read_value(&xor)?);
    Ok(Some(Expr::Bitwise { sreg: reg(a, 1)?, dreg: reg(a, 2)?, mask, xor }))
}

fn byteorder(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let op = if number(a, 3)? == 0 { ByteOrderOp::NetworkToHost } else { ByteOrderOp::HostToNetwork };
    Ok(Some(Expr::ByteOrder { sreg: reg(a, 1)?, dreg: reg(a, 2)?, op, len: number(a, 4)?, size: number(a, 5)? }))
}

fn immediate(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let data = a.require(2, "immediate")?;
    if let Some(verdict) = data.nested().find(DATA_VERDICT)? {
        return Ok(Some(Expr::Verdict(read_verdict(&verdict)?)));
    }
    Ok(Some(Expr::Immediate { dreg: reg(a, 1)?, data: read_value(&data)? }))
}

fn lookup(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let set = a.require(1, "lookup")?.text()?.to_owned();
    let dest = match a.find(3)? {
        None => None,
        Some(dreg) if dreg.be32()? == 0 => Some(Destination::Verdict),
        Some(dreg) => Some(Destination::Register(as_reg(&dreg)?)),
    };
    let invert = optional(a, 5)?.unwrap_or(0) & 1 != 0;
    Ok(Some(Expr::Lookup { set, sreg: reg(a, 2)?, dest, invert }))
}

fn numgen(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let kind = if number(a, 3)? == 0 { NumgenKind::Incremental } else { NumgenKind::Random };
    let offset = optional(a, 4)?.unwrap_or(0);
    Ok(Some(Expr::Numgen { dreg: reg(a, 1)?, kind, modulus: number(a, 2)?, offset }))
}

fn ct(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let wanted = number(a, 2)?;
    let Some(key) = CtKey::ALL.into_iter().find(|key| key.number() == wanted) else { return Ok(None) };
    let direction = match a.find(3)? {
        Some(attribute) => Some(if attribute.u8()? == 0 { Direction::Original } else { Direction::Reply }),
        None => None,
    };
    Ok(match (optional_reg(a, 1)?, optional_reg(a, 4)?) {
        (Some(dreg), None) => Some(Expr::Ct { dreg, key, direction }),
        (None, Some(sreg)) => Some(Expr::CtSet { sreg, key }),
        _ => None,
    })
}

fn nat(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let kind = if number(a, 1)? == 0 { NatKind::Source } else { NatKind::Destination };
    let family = match number(a, 2)? {
        2 => L3::V4,
        10 => L3::V6,
        _ => return Ok(None),
    };
    let (addr, addr_max) = (optional_reg(a, 3)?, optional_reg(a, 4)?);
    let (proto, flags) = ports_and_flags(a, 5, 6, 7)?;
    // A range of addresses is nothing we write.
    if addr_max.is_some() && addr_max != addr {
        return Ok(None);
    }
    Ok(Some(Expr::Nat { kind, family, addr, proto, flags }))
}

fn tproxy(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let family = match number(a, 1)? {
        2 => L3::V4,
        10 => L3::V6,
        _ => return Ok(None),
    };
    // To another address than the packet's own is nothing we write.
    if optional_reg(a, 2)?.is_some() {
        return Ok(None);
    }
    Ok(Some(Expr::Tproxy { family, port: reg(a, 3)? }))
}

fn ports_and_flags(a: &Attributes<'_>, min: u16, max: u16, flags: u16) -> Result<(Option<Reg>, NatFlags), ParseError> {
    let (proto, proto_max) = (optional_reg(a, min)?, optional_reg(a, max)?);
    if proto_max.is_some() && proto_max != proto {
        return Err(ParseError::Unknown { what: "port range", value: 0 });
    }
    let bits = optional(a, flags)?.unwrap_or(0);
    let known = nat_flag::IMPLIED | nat_flag::RANDOM | nat_flag::PERSISTENT | nat_flag::FULLY_RANDOM;
    if bits & !known != 0 {
        return Err(ParseError::Unknown { what: "translation flags", value: bits });
    }
    let flags = NatFlags {
        random: bits & nat_flag::RANDOM != 0,
        fully_random: bits & nat_flag::FULLY_RANDOM != 0,
        persistent: bits & nat_flag::PERSISTENT != 0,
    };
    Ok((proto, flags))
}

fn reject(family: Family, a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let code = match a.find(2)? {
        Some(attribute) => attribute.u8()?,
        None => 0,
    };
    Ok(match (number(a, 1)?, family) {
        (0, Family::Ip6) => Some(Expr::Reject(Reject::Icmpv6(code))),
        // In inet tables the number alone doesn't say for which protocol; we use icmpx there.
        (0, _) => Some(Expr::Reject(Reject::Icmp(code))),
        (1, _) => Some(Expr::Reject(Reject::TcpReset)),
        (2, _) => Some(Expr::Reject(Reject::Icmpx(code))),
        _ => None,
    })
}

fn dynset(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let op = match number(a, 3)? {
        0 => DynsetOp::Add,
        1 => DynsetOp::Update,
        2 => DynsetOp::Delete,
        _ => return Ok(None),
    };
    // Inverted ones, and ones with expressions per element, are nothing we write.
    if optional(a, 9)?.unwrap_or(0) != 0 {
        return Ok(None);
    }
    let timeout = match a.find(6)? {
        Some(attribute) => Some(attribute.be64()?).filter(|millis| *millis != 0).map(Duration::from_millis),
        None => None,
    };
    let set = a.require(1, "dynset")?.text()?.to_owned();
    Ok(Some(Expr::Dynset { set, op, key: reg(a, 4)?, data: optional_reg(a, 5)?, timeout }))
}

fn fib(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let result = match number(a, 2)? {
        1 => FibResult::Oif,
        2 => FibResult::OifName,
        3 => FibResult::AddrType,
        _ => return Ok(None),
    };
    let bits = number(a, 3)?;
    let flags = FibFlags {
        saddr: bits & 1 != 0,
        daddr: bits & 2 != 0,
        mark: bits & 4 != 0,
        iif: bits & 8 != 0,
        oif: bits & 16 != 0,
        present: bits & 32 != 0,
    };
    Ok(Some(Expr::Fib { dreg: reg(a, 1)?, result, flags }))
}

fn limit(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let kind = if optional(a, 4)?.unwrap_or(0) == 0 { LimitKind::Packets } else { LimitKind::Bytes };
    Ok(Some(Expr::Limit(Limit {
        rate: number64(a, 1)?,
        unit: number64(a, 2)?,
        burst: optional(a, 3)?.unwrap_or(0),
        kind,
        over: optional(a, 5)?.unwrap_or(0) & 1 != 0,
    })))
}

fn log(a: &Attributes<'_>) -> Result<Option<Expr>, ParseError> {
    let prefix = match a.find(2)? {
        Some(attribute) => attribute.text()?.to_owned(),
        None => String::new(),
    };
    let group = match a.find(1)? {
        Some(attribute) => Some(attribute.be16()?),
        None => None,
    };
    let level = optional(a, 5)?.filter(|level| *level != DEFAULT_LOG_LEVEL);
    Ok(Some(Expr::Log(Log { prefix, level, group })))
}

fn number(a: &Attributes<'_>, kind: u16) -> Result<u32, ParseError> {
    a.require(kind, "expression")?.be32()
}

fn number64(a: &Attributes<'_>, kind: u16) -> Result<u64, ParseError> {
    a.require(kind, "expression")?.be64()
}

fn optional(a: &Attributes<'_>, kind: u16) -> Result<Option<u32>, ParseError> {
    a.find(kind)?.map(|attribute| attribute.be32()).transpose()
}

fn reg(a: &Attributes<'_>, kind: u16) -> Result<Reg, ParseError> {
    as_reg(&a.require(kind, "expression")?)
}

fn optional_reg(a: &Attributes<'_>, kind: u16) -> Result<Option<Reg>, ParseError> {
    a.find(kind)?.map(|attribute| as_reg(&attribute)).transpose()
}

fn as_reg(attribute: &Attribute<'_>) -> Result<Reg, ParseError> {
    let number = attribute.be32()?;
    Reg::from_number(number).ok_or(ParseError::Unknown { what: "register", value: number })
}
