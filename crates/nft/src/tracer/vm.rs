//! The machine that runs rules: registers, chains, and every expression we write.

use std::net::{IpAddr, SocketAddr};

use super::{Effect, Fate, Flight, SourceTranslation, Step, TraceError, bytes};
use crate::expr::{
    ByteOrderOp, CmpOp, CtKey, Destination, Direction, DynsetOp, Expr, FibFlags, FibResult, MetaKey, NatKind,
    NumgenKind, PayloadBase, Reg, Verdict, ct_state,
};
use crate::object::{Content, Data, Key, Set, Table};
use crate::value::{IFNAME_LEN, Value, padded, types_len};

const REGISTER_BYTES: usize = Reg::WORDS as usize * 4;
/// How deep the kernel lets chains nest.
const STACK: usize = 16;

/// Where in the rules we are, for errors.
struct Place<'a> {
    table: &'a Table,
    chain: &'a str,
    rule: usize,
}

struct Registers([u8; REGISTER_BYTES]);

impl Registers {
    fn write(&mut self, reg: Reg, value: &[u8]) {
        let start = reg.index() * 4;
        let end = (start + padded(value.len())).min(REGISTER_BYTES);
        self.0[start..end].fill(0);
        for (to, from) in self.0[start..end].iter_mut().zip(value) {
            *to = *from;
        }
    }

    fn read(&self, reg: Reg, len: usize) -> &[u8] {
        let start = reg.index() * 4;
        &self.0[start..(start + len).min(REGISTER_BYTES)]
    }

    fn number(&self, reg: Reg) -> u32 {
        self.read(reg, 4).first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

impl Flight<'_, '_, '_> {
    /// Runs a base chain and all it jumps to. `None`: the policy decides.
    pub(super) fn run_base(&mut self, table: &Table, chain: &str) -> Result<Option<Fate>, TraceError> {
        let mut stack: Vec<(String, usize)> = Vec::new();
        let mut at = (chain.to_owned(), 0);
        loop {
            let rule = self.fake.tables.get(table).and_then(|t| t.chains.get(&at.0)).and_then(|c| c.rules.get(at.1));
            let Some(exprs) = rule.map(|rule| rule.exprs.clone()) else {
                // The end of a chain returns to where it was jumped from.
                match stack.pop() {
                    Some(back) => at = back,
                    None => return Ok(None),
                }
                continue;
            };
            let place = Place { table, chain: &at.0, rule: at.1 };
            let effect = self.run_rule(&place, &exprs)?;
            if !matches!(effect, Effect::Break) {
                self.trace.steps.push(Step { table: table.clone(), chain: at.0.clone(), rule: at.1 });
            }
            at.1 += 1;
            match effect {
                Effect::Break | Effect::Continue | Effect::Verdict(Verdict::Continue) => {}
                Effect::Final(fate) => return Ok(Some(fate)),
                Effect::Verdict(Verdict::Accept) => return Ok(Some(Fate::Accept)),
                Effect::Verdict(Verdict::Drop) => return Ok(Some(Fate::Drop)),
                Effect::Verdict(Verdict::Return) => match stack.pop() {
                    Some(back) => at = back,
                    None => return Ok(None),
                },
                Effect::Verdict(Verdict::Goto(to)) => at = (to, 0),
                Effect::Verdict(Verdict::Jump(to)) => {
                    if stack.len() >= STACK {
                        let place = Place { table, chain: &to, rule: 0 };
                        return Err(unsupported(&place, "chains nest too deep"));
                    }
                    stack.push(std::mem::replace(&mut at, (to, 0)));
                }
            }
        }
    }

    fn run_rule(&mut self, place: &Place<'_>, exprs: &[Expr]) -> Result<Effect, TraceError> {
        let mut registers = Registers([0; REGISTER_BYTES]);
        for expr in exprs {
            match self.run(place, &mut registers, expr)? {
                Effect::Continue | Effect::Verdict(Verdict::Continue) => {}
                end => return Ok(end),
            }
        }
        Ok(Effect::Continue)
    }

    fn run(&mut self, place: &Place<'_>, r: &mut Registers, expr: &Expr) -> Result<Effect, TraceError> {
        match expr {
            Expr::Payload { dreg, base, offset, len } => {
                let Some(value) = self.payload(*base, *offset, *len) else {
                    return Err(unsupported(place, format!("{expr:?}")));
                };
                r.write(*dreg, &value);
            }
            Expr::Meta { dreg, key } => match self.meta(*key) {
                Some(value) => r.write(*dreg, &value),
                None => return Ok(Effect::Break),
            },
            Expr::MetaSet { sreg, key: MetaKey::Mark } => self.packet.mark = r.number(*sreg),
            Expr::Cmp { sreg, op, data } => {
                let order = r.read(*sreg, data.len()).cmp(data.as_bytes());
                let holds = match op {
                    CmpOp::Eq => order.is_eq(),
                    CmpOp::Ne => order.is_ne(),
                    CmpOp::Lt => order.is_lt(),
                    CmpOp::Le => order.is_le(),
                    CmpOp::Gt => order.is_gt(),
                    CmpOp::Ge => order.is_ge(),
                };
                if !holds {
                    return Ok(Effect::Break);
                }
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                let source = r.read(*sreg, mask.len());
                let result: Vec<u8> =
                    source.iter().zip(mask.as_bytes()).zip(xor.as_bytes()).map(|((s, m), x)| (s & m) ^ x).collect();
                r.write(*dreg, &result);
            }
            Expr::ByteOrder { sreg, dreg, op: ByteOrderOp::HostToNetwork, len: 4, size: 4 } => {
                let number = r.number(*sreg);
                r.write(*dreg, &number.to_be_bytes());
            }
            Expr::Immediate { dreg, data } => r.write(*dreg, data.as_bytes()),
            Expr::Verdict(verdict) => return Ok(Effect::Verdict(verdict.clone())),
            Expr::Lookup { set, sreg, dest, invert } => return self.lookup(place, r, set, *sreg, *dest, *invert),
            other => return self.run_source(place, r, other),
        }
        Ok(Effect::Continue)
    }

    /// Loads from what lies outside of the packet.
    fn run_source(&mut self, place: &Place<'_>, r: &mut Registers, expr: &Expr) -> Result<Effect, TraceError> {
        match expr {
            Expr::Numgen { dreg, kind: NumgenKind::Random, modulus, offset } => {
                let number = (self.world.random)(*modulus) % modulus.max(&1) + offset;
                r.write(*dreg, &number.to_ne_bytes());
            }
            Expr::Ct { dreg, key, direction } => match self.ct(place, *key, *direction)? {
                Some(value) => r.write(*dreg, &value),
                None => return Ok(Effect::Break),
            },
            Expr::CtSet { sreg, key: CtKey::Mark } => self.packet.connection.mark = r.number(*sreg),
            Expr::Fib { dreg, result: FibResult::AddrType, flags } => {
                let addr = match *flags {
                    FibFlags { saddr: false, daddr: true, mark: false, iif: false, oif: false, .. } => {
                        self.packet.destination.ip()
                    }
                    FibFlags { saddr: true, daddr: false, mark: false, iif: false, oif: false, .. } => {
                        self.packet.source.ip()
                    }
                    _ => return Err(unsupported(place, format!("{expr:?}"))),
                };
                r.write(*dreg, &((self.world.addr_type)(addr) as u32).to_ne_bytes());
            }
            other => return self.run_statement(place, r, other),
        }
        Ok(Effect::Continue)
    }

    fn run_statement(&mut self, place: &Place<'_>, r: &mut Registers, expr: &Expr) -> Result<Effect, TraceError> {
        match expr {
            Expr::Nat { kind, family, addr, proto, .. } => {
                let len = family.addr_len() as usize;
                let addr = addr.and_then(|reg| as_addr(r.read(reg, len)));
                let port = proto.map(|reg| as_port(r, reg));
                match kind {
                    NatKind::Destination => {
                        let old = self.packet.destination;
                        let to = SocketAddr::new(addr.unwrap_or(old.ip()), port.unwrap_or(old.port()));
                        self.translate_destination(to);
                    }
                    NatKind::Source => {
                        let to = addr.unwrap_or(self.packet.source.ip());
                        self.translate_source(SourceTranslation::To(to, port));
                    }
                }
                Ok(Effect::Final(Fate::Accept))
            }
            Expr::Masquerade { flags, .. } => {
                self.translate_source(SourceTranslation::Masquerade { fully_random: flags.fully_random });
                Ok(Effect::Final(Fate::Accept))
            }
            Expr::Reject(how) => Ok(Effect::Final(Fate::Reject(*how))),
            Expr::Dynset { set, op, key, data, timeout } => self.dynset(place, r, set, *op, *key, *data, *timeout),
            // The tracer's packets come one at a time: never above a rate.
            Expr::Limit(limit) => Ok(if limit.over { Effect::Break } else { Effect::Continue }),
            Expr::Counter(_) | Expr::Log(_) => Ok(Effect::Continue),
            Expr::Notrack => {
                self.packet.connection.state = ct_state::UNTRACKED;
                Ok(Effect::Continue)
            }
            other => Err(unsupported(place, format!("{other:?}"))),
        }
    }

    fn payload(&self, base: PayloadBase, offset: u32, len: u32) -> Option<Vec<u8>> {
        let packet = &self.packet;
        let v4 = packet.destination.is_ipv4();
        match (base, offset, len) {
            (PayloadBase::Network, 12, 4) if v4 => Some(octets(packet.source.ip())),
            (PayloadBase::Network, 16, 4) if v4 => Some(octets(packet.destination.ip())),
            (PayloadBase::Network, 8, 16) if !v4 => Some(octets(packet.source.ip())),
            (PayloadBase::Network, 24, 16) if !v4 => Some(octets(packet.destination.ip())),
            (PayloadBase::Transport, 0, 2) => Some(packet.source.port().to_be_bytes().to_vec()),
            (PayloadBase::Transport, 2, 2) => Some(packet.destination.port().to_be_bytes().to_vec()),
            _ => None,
        }
    }

    /// `None` where the packet has no such link, which ends the rule.
    fn meta(&self, key: MetaKey) -> Option<Vec<u8>> {
        let name = |text: &str| {
            let mut name = text.as_bytes().to_vec();
            name.resize(IFNAME_LEN, 0);
            name
        };
        match key {
            MetaKey::Mark => Some(self.packet.mark.to_ne_bytes().to_vec()),
            MetaKey::L4Proto => Some(vec![self.packet.proto]),
            MetaKey::NfProto => Some(vec![if self.packet.destination.is_ipv4() { 2 } else { 10 }]),
            MetaKey::Iif => Some(self.iif.as_ref().map_or(0, |link| link.index).to_ne_bytes().to_vec()),
            MetaKey::Oif => Some(self.oif.as_ref().map_or(0, |link| link.index).to_ne_bytes().to_vec()),
            MetaKey::IifName => Some(name(self.iif.as_ref().map_or("", |link| &link.name))),
            MetaKey::OifName => Some(name(self.oif.as_ref().map_or("", |link| &link.name))),
        }
    }

    fn ct(&self, place: &Place<'_>, key: CtKey, direction: Option<Direction>) -> Result<Option<Vec<u8>>, TraceError> {
        let connection = &self.packet.connection;
        let untracked = connection.state == ct_state::UNTRACKED;
        let original = connection.original_destination.unwrap_or(self.packet.destination);
        Ok(match (key, direction) {
            (CtKey::State, None) => Some(connection.state.to_ne_bytes().to_vec()),
            // Untracked packets have no connection to ask about.
            _ if untracked => None,
            (CtKey::Status, None) => Some(connection.status.to_ne_bytes().to_vec()),
            (CtKey::Mark, None) => Some(connection.mark.to_ne_bytes().to_vec()),
            (CtKey::Direction, None) => Some(vec![u8::from(connection.direction == Direction::Reply)]),
            (CtKey::SrcIp | CtKey::SrcIp6, Some(Direction::Original))
                if connection.direction == Direction::Original =>
            {
                Some(octets(self.packet.source.ip()))
            }
            (CtKey::DstIp | CtKey::DstIp6, Some(Direction::Original)) => Some(octets(original.ip())),
            (CtKey::ProtoDst, Some(Direction::Original)) => Some(original.port().to_be_bytes().to_vec()),
            _ => return Err(unsupported(place, format!("ct {key:?} {direction:?}"))),
        })
    }

    fn lookup(
        &mut self,
        place: &Place<'_>,
        r: &mut Registers,
        set: &str,
        sreg: Reg,
        dest: Option<Destination>,
        invert: bool,
    ) -> Result<Effect, TraceError> {
        let state = self.fake.tables.get(place.table).and_then(|table| table.sets.get(set));
        let state = state.ok_or_else(|| unsupported(place, format!("no set {set}")))?;
        let key = r.read(sreg, key_len(place, &state.set)?);
        let found = find(&state.set, &state.elements, key);
        match (found, dest) {
            (None, _) if invert => Ok(Effect::Continue),
            (Some(_), _) if invert => Ok(Effect::Break),
            (None, _) => Ok(Effect::Break),
            (Some(_), None) => Ok(Effect::Continue),
            (Some(Content { data: Some(Data::Verdict(verdict)), .. }), Some(Destination::Verdict)) => {
                Ok(Effect::Verdict(verdict.clone()))
            }
            (Some(Content { data: Some(Data::Value(value)), .. }), Some(Destination::Register(dreg))) => {
                r.write(dreg, value.as_bytes());
                Ok(Effect::Continue)
            }
            (Some(_), Some(_)) => Err(unsupported(place, format!("data of set {set}"))),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one expression")]
    fn dynset(
        &mut self,
        place: &Place<'_>,
        r: &Registers,
        set: &str,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout: Option<std::time::Duration>,
    ) -> Result<Effect, TraceError> {
        let state = self.fake.tables.get_mut(place.table).and_then(|table| table.sets.get_mut(set));
        let state = state.ok_or_else(|| unsupported(place, format!("no set {set}")))?;
        let key = Key::from(bytes(r.read(key, key_len(place, &state.set)?)));
        let data = match (&state.set.data, data) {
            (Some(crate::MapData::Value(types)), Some(data)) => {
                Some(Data::Value(bytes(r.read(data, types_len(types).unwrap_or(0)))))
            }
            _ => None,
        };
        let elements = std::sync::Arc::make_mut(&mut state.elements);
        let default = state.set.timeout;
        let expires = timeout.or(default).filter(|_| state.set.flags.timeout);
        if op == DynsetOp::Delete {
            return Ok(if elements.remove(&key).is_some() { Effect::Continue } else { Effect::Break });
        }
        if let Some(present) = elements.get_mut(&key) {
            // An element that is there keeps its data; an update only prolongs its life.
            if op == DynsetOp::Update {
                present.timeout = timeout.filter(|timeout| Some(*timeout) != default);
                present.expires = expires;
            }
            return Ok(Effect::Continue);
        }
        if state.set.size.is_some_and(|size| elements.len() >= size as usize) {
            return Ok(Effect::Break);
        }
        let timeout = timeout.filter(|timeout| Some(*timeout) != default);
        elements.insert(key, Content { data, timeout, expires, comment: None });
        Ok(Effect::Continue)
    }
}

fn key_len(place: &Place<'_>, set: &Set) -> Result<usize, TraceError> {
    set.key_len().ok_or_else(|| unsupported(place, format!("key of set {}", set.name)))
}

/// Finds the element that covers a key.
fn find<'e>(set: &Set, elements: &'e std::collections::BTreeMap<Key, Content>, key: &[u8]) -> Option<&'e Content> {
    if !set.flags.interval {
        return elements.get(&Key::from(Value::new(key)));
    }
    let fields: Vec<usize> = if set.is_concatenation() {
        set.key.iter().map(|kind| kind.padded_len().unwrap_or(4)).collect()
    } else {
        vec![key.len()]
    };
    let covers = |range: &Key| {
        let mut at = 0;
        fields.iter().all(|len| {
            let part = |value: &'_ [u8]| value.get(at..at + len).map(<[u8]>::to_vec);
            let inside = part(range.start.as_bytes()) <= part(key) && part(key) <= part(range.last().as_bytes());
            at += len;
            inside
        })
    };
    elements.iter().find(|(range, _)| covers(range)).map(|(_, content)| content)
}

fn as_addr(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        _ => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    }
}

fn as_port(r: &Registers, reg: Reg) -> u16 {
    r.read(reg, 2).first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn unsupported(place: &Place<'_>, what: impl Into<String>) -> TraceError {
    TraceError::Unsupported {
        table: place.table.clone(),
        chain: place.chain.to_owned(),
        rule: place.rule,
        what: what.into(),
    }
}
