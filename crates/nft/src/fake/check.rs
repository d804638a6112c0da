//! What the kernel checks of a rule when it is added: references, and that registers are filled before they are read.

use super::State;
use crate::error::Reason;
use crate::expr::{CtKey, Destination, DynsetOp, Expr, MetaKey, Reg, Verdict};
use crate::object::{Family, MapData, Rule};
use crate::value::{padded, types_len};

/// The registers' bytes together.
const REGISTER_BYTES: usize = Reg::WORDS as usize * 4;

#[derive(Default)]
struct Registers([bool; Reg::WORDS as usize]);

pub(super) fn rule(family: Family, state: &State, rule: &Rule) -> Result<(), Reason> {
    let mut registers = Registers::default();
    rule.exprs.iter().try_for_each(|expr| check(family, state, &mut registers, expr))
}

pub(super) fn verdict(state: &State, verdict: &Verdict) -> Result<(), Reason> {
    let (Verdict::Jump(chain) | Verdict::Goto(chain)) = verdict else { return Ok(()) };
    match state.chains.get(chain) {
        None => Err(Reason::Missing),
        Some(chain) if chain.chain.base.is_some() => Err(Reason::Unsupported),
        Some(_) => Ok(()),
    }
}

fn check(family: Family, state: &State, registers: &mut Registers, expr: &Expr) -> Result<(), Reason> {
    match expr {
        Expr::Payload { dreg, len, .. } => registers.write(*dreg, *len as usize),
        Expr::Meta { dreg, key } => registers.write(*dreg, meta_len(*key)),
        Expr::MetaSet { sreg, key: MetaKey::Mark } => registers.read(*sreg, 4),
        Expr::MetaSet { .. } => Err(Reason::Unsupported),
        Expr::Cmp { sreg, data, .. } => registers.read(*sreg, data.len()),
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            if mask.len() != xor.len() {
                return Err(Reason::Invalid);
            }
            registers.read(*sreg, mask.len())?;
            registers.write(*dreg, mask.len())
        }
        Expr::ByteOrder { sreg, dreg, len, .. } => {
            registers.read(*sreg, *len as usize)?;
            registers.write(*dreg, *len as usize)
        }
        Expr::Immediate { dreg, data } => registers.write(*dreg, data.len()),
        Expr::Verdict(target) => verdict(state, target),
        Expr::Lookup { set, sreg, dest, invert } => lookup(state, registers, set, *sreg, *dest, *invert),
        Expr::Numgen { modulus: 0, .. } => Err(Reason::Invalid),
        Expr::Numgen { modulus, offset, .. } if offset.checked_add(modulus - 1).is_none() => Err(Reason::Invalid),
        Expr::Numgen { dreg, .. } => registers.write(*dreg, 4),
        Expr::Ct { dreg, key, .. } => registers.write(*dreg, ct_len(*key)),
        Expr::CtSet { sreg, key: CtKey::Mark } => registers.read(*sreg, 4),
        Expr::CtSet { .. } => Err(Reason::Unsupported),
        Expr::Nat { family: l3, addr, proto, .. } => {
            let fits = match family {
                Family::Ip => *l3 == crate::L3::V4,
                Family::Ip6 => *l3 == crate::L3::V6,
                Family::Inet => true,
            };
            if !fits {
                return Err(Reason::Unsupported);
            }
            addr.map_or(Ok(()), |reg| registers.read(reg, l3.addr_len() as usize))?;
            proto.map_or(Ok(()), |reg| registers.read(reg, 2))
        }
        Expr::Tproxy { family: l3, port } => match (family, l3) {
            (Family::Ip, crate::L3::V4) | (Family::Ip6, crate::L3::V6) | (Family::Inet, _) => registers.read(*port, 2),
            _ => Err(Reason::Unsupported),
        },
        Expr::Masquerade { proto, .. } | Expr::Redirect { proto, .. } => {
            proto.map_or(Ok(()), |reg| registers.read(reg, 2))
        }
        Expr::Dynset { set, op, key, data, timeout } => {
            dynset(state, registers, set, *op, *key, *data, timeout.is_some())
        }
        Expr::Fib { dreg, .. } => registers.write(*dreg, 4),
        Expr::Limit(limit) if limit.rate == 0 || limit.unit == 0 => Err(Reason::Invalid),
        Expr::Reject(_) | Expr::Counter(_) | Expr::Limit(_) | Expr::Notrack | Expr::Log(_) => Ok(()),
        // The kernel says ENOENT of an expression type it doesn't have.
        Expr::Unknown { .. } => Err(Reason::Missing),
    }
}

fn lookup(
    state: &State,
    registers: &mut Registers,
    set: &str,
    sreg: Reg,
    dest: Option<Destination>,
    invert: bool,
) -> Result<(), Reason> {
    let set = &state.sets.get(set).ok_or(Reason::Missing)?.set;
    registers.read(sreg, set.key_len().unwrap_or(0))?;
    match (dest, &set.data) {
        (Some(_), _) if invert => Err(Reason::Invalid),
        (None, _) => Ok(()),
        (Some(Destination::Verdict), Some(MapData::Verdict)) => Ok(()),
        (Some(Destination::Register(dreg)), Some(MapData::Value(types))) => {
            registers.write(dreg, types_len(types).unwrap_or(0))
        }
        _ => Err(Reason::Invalid),
    }
}

fn dynset(
    state: &State,
    registers: &mut Registers,
    set: &str,
    op: DynsetOp,
    key: Reg,
    data: Option<Reg>,
    has_timeout: bool,
) -> Result<(), Reason> {
    let set = &state.sets.get(set).ok_or(Reason::Missing)?.set;
    if set.flags.constant {
        return Err(Reason::InUse);
    }
    let needs_timeout = has_timeout || op == DynsetOp::Update;
    if !set.flags.dynamic || (needs_timeout && !set.flags.timeout) {
        return Err(Reason::Unsupported);
    }
    registers.read(key, set.key_len().unwrap_or(0))?;
    match (data, &set.data) {
        (None, None) => Ok(()),
        (Some(data), Some(MapData::Value(types))) => registers.read(data, types_len(types).unwrap_or(0)),
        (None, Some(_)) => Err(Reason::Invalid),
        (Some(_), _) => Err(Reason::Unsupported),
    }
}

fn meta_len(key: MetaKey) -> usize {
    match key {
        MetaKey::IifName | MetaKey::OifName => crate::value::IFNAME_LEN,
        MetaKey::NfProto | MetaKey::L4Proto => 1,
        MetaKey::Mark | MetaKey::Iif | MetaKey::Oif => 4,
    }
}

fn ct_len(key: CtKey) -> usize {
    match key {
        CtKey::Direction => 1,
        CtKey::ProtoSrc | CtKey::ProtoDst => 2,
        CtKey::SrcIp6 | CtKey::DstIp6 => 16,
        _ => 4,
    }
}

impl Registers {
    fn words(reg: Reg, len: usize) -> Result<std::ops::Range<usize>, Reason> {
        let start = reg.index();
        let end = start + padded(len) / 4;
        if len == 0 || end * 4 > REGISTER_BYTES { Err(Reason::Invalid) } else { Ok(start..end) }
    }

    fn write(&mut self, reg: Reg, len: usize) -> Result<(), Reason> {
        self.0[Self::words(reg, len)?].fill(true);
        Ok(())
    }

    /// Reading what nothing has written is refused by kernels since 6.3; older ones would read zeroes.
    fn read(&self, reg: Reg, len: usize) -> Result<(), Reason> {
        if self.0[Self::words(reg, len)?].iter().all(|written| *written) { Ok(()) } else { Err(Reason::Uninitialised) }
    }
}
