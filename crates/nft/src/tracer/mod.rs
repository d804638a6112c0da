//! Runs a packet through the rules of a [`Fake`], hook by hook, as the kernel would, and says what becomes of it.
//!
//! Only the first packet of a connection meets translation. Anything the tracer doesn't know how to run is an error,
//! never a guess.

mod vm;

use std::net::{IpAddr, SocketAddr};

use crate::expr::{Direction, NatKind, Reject, Verdict, ct_state, ct_status};
use crate::fake::Fake;
use crate::object::{ChainType, Family, Hook, Policy, Table};
use crate::rule::AddrType;
use crate::value::Value;

/// Translation to another destination happens at this priority, whatever the chains' own are.
const PRIORITY_DNAT: i32 = -100;
/// … and of the source at this one.
const PRIORITY_SNAT: i32 = 100;

/// A network link by number and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
}

/// Where the packet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It came in over a link.
    Received(Link),
    /// A process of this machine sent it.
    Sent,
}

/// What connection tracking knows of the packet's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Bits of [`ct_state`].
    pub state: u32,
    /// Bits of [`ct_status`].
    pub status: u32,
    pub direction: Direction,
    pub mark: u32,
    /// Whom the first packet was sent to, where that differs from this packet's destination.
    pub original_destination: Option<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub entry: Entry,
    /// The link it leaves by, unless it is for this machine.
    pub oif: Option<Link>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub proto: u8,
    pub mark: u32,
    pub connection: Connection,
}

/// What the tracer asks of its surroundings.
pub struct World<'a> {
    /// The routing table's opinion of an address.
    pub addr_type: &'a dyn Fn(IpAddr) -> AddrType,
    /// A number below the given one, for `numgen random`.
    pub random: &'a mut dyn FnMut(u32) -> u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Accept,
    Drop,
    Reject(Reject),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceTranslation {
    To(IpAddr, Option<u16>),
    /// To an address of the outgoing link.
    Masquerade {
        fully_random: bool,
    },
}

/// A rule whose statements ran to their end or to a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub table: Table,
    pub chain: String,
    pub rule: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub fate: Fate,
    /// Where the packet goes if its destination was translated.
    pub dnat: Option<SocketAddr>,
    pub snat: Option<SourceTranslation>,
    /// The mark it ends with.
    pub mark: u32,
    pub ct_mark: u32,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("the tracer can't run this: {table} {chain} rule {rule}: {what}")]
    Unsupported { table: Table, chain: String, rule: usize, what: String },
    #[error("source and destination are of different address families")]
    MixedFamilies,
}

/// A packet on its way.
struct Flight<'f, 'w, 'a> {
    fake: &'f mut Fake,
    world: &'w mut World<'a>,
    packet: Packet,
    iif: Option<Link>,
    oif: Option<Link>,
    hook: Hook,
    trace: Trace,
    /// Set once the hooks that translate have all been seen: a packet that loops back meets none again.
    settled: bool,
}

impl Link {
    pub fn new(index: u32, name: impl Into<String>) -> Self {
        Self { index, name: name.into() }
    }

    fn loopback() -> Self {
        Self::new(1, "lo")
    }
}

impl Packet {
    /// The first packet of a connection.
    pub fn first(entry: Entry, proto: u8, source: SocketAddr, destination: SocketAddr) -> Self {
        let connection = Connection {
            state: ct_state::NEW,
            status: 0,
            direction: Direction::Original,
            mark: 0,
            original_destination: None,
        };
        Self { entry, oif: None, source, destination, proto, mark: 0, connection }
    }

    pub fn leaving_by(mut self, link: Link) -> Self {
        self.oif = Some(link);
        self
    }

    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }
}

impl Fake {
    /// Follows a packet through all hooks. What rules write to sets is kept.
    pub fn trace(&mut self, packet: Packet, world: &mut World<'_>) -> Result<Trace, TraceError> {
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            return Err(TraceError::MixedFamilies);
        }
        let trace = Trace {
            fate: Fate::Accept,
            dnat: None,
            snat: None,
            mark: packet.mark,
            ct_mark: packet.connection.mark,
            steps: Vec::new(),
        };
        let (iif, oif) = (None, packet.oif.clone());
        let mut flight = Flight { fake: self, world, packet, iif, oif, hook: Hook::Prerouting, trace, settled: false };
        flight.fly()?;
        flight.trace.mark = flight.packet.mark;
        flight.trace.ct_mark = flight.packet.connection.mark;
        Ok(flight.trace)
    }
}

impl Flight<'_, '_, '_> {
    fn fly(&mut self) -> Result<(), TraceError> {
        match self.packet.entry.clone() {
            Entry::Received(link) => {
                let out = self.oif.take();
                self.iif = Some(link);
                if !self.pass(Hook::Prerouting)? {
                    return Ok(());
                }
                if self.is_for_us() {
                    self.pass(Hook::Input)?;
                    return Ok(());
                }
                self.oif = out;
                if self.pass(Hook::Forward)? {
                    self.iif = None;
                    self.pass(Hook::Postrouting)?;
                }
            }
            Entry::Sent => {
                if !self.pass(Hook::Output)? {
                    return Ok(());
                }
                let loops = self.is_for_us();
                if loops {
                    self.oif = Some(Link::loopback());
                }
                if !self.pass(Hook::Postrouting)? || !loops {
                    return Ok(());
                }
                self.settled = true;
                (self.iif, self.oif) = (Some(Link::loopback()), None);
                if self.pass(Hook::Prerouting)? {
                    self.pass(Hook::Input)?;
                }
            }
        }
        Ok(())
    }

    fn is_for_us(&self) -> bool {
        matches!((self.world.addr_type)(self.packet.destination.ip()), AddrType::Local | AddrType::Broadcast)
    }

    /// Runs the base chains of a hook. False when the packet's way ends there.
    fn pass(&mut self, hook: Hook) -> Result<bool, TraceError> {
        self.hook = hook;
        for (table, chain, kind, policy) in self.chains_of(hook) {
            if kind == ChainType::Nat && !self.may_translate(hook) {
                continue;
            }
            let fate = match self.run_base(&table, &chain)? {
                Some(fate) => fate,
                None if policy == Policy::Drop => Fate::Drop,
                None => Fate::Accept,
            };
            if fate != Fate::Accept {
                self.trace.fate = fate;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn chains_of(&self, hook: Hook) -> Vec<(Table, String, ChainType, Policy)> {
        let family = if self.packet.destination.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let mut found = Vec::new();
        for (table, state) in &self.fake.tables {
            if table.family != family && table.family != Family::Inet {
                continue;
            }
            for name in &state.order {
                let Some(base) = state.chains.get(name).and_then(|chain| chain.chain.base.as_ref()) else { continue };
                if base.hook == hook {
                    found.push((position(base.kind, hook, base.priority), table.clone(), name.clone(), base.clone()));
                }
            }
        }
        found.sort_by_key(|(position, ..)| *position);
        found.into_iter().map(|(_, table, name, base)| (table, name, base.kind, base.policy)).collect()
    }

    fn may_translate(&self, hook: Hook) -> bool {
        let done = match manip(hook) {
            NatKind::Destination => self.trace.dnat.is_some(),
            NatKind::Source => self.trace.snat.is_some(),
        };
        !self.settled && !done && self.packet.connection.state & ct_state::NEW != 0
    }

    /// Translates the destination: what comes behind sees the new one.
    fn translate_destination(&mut self, to: SocketAddr) {
        let packet = &mut self.packet;
        packet.connection.original_destination.get_or_insert(packet.destination);
        packet.connection.status |= ct_status::DNAT;
        packet.destination = to;
        self.trace.dnat = Some(to);
    }

    fn translate_source(&mut self, to: SourceTranslation) {
        self.packet.connection.status |= ct_status::SNAT;
        self.trace.snat = Some(to);
    }
}

/// Where a chain runs within its hook. All that translates runs at one place, there by its own priority.
fn position(kind: ChainType, hook: Hook, priority: i32) -> (i32, i32) {
    match (kind, manip(hook)) {
        (ChainType::Nat, NatKind::Destination) => (PRIORITY_DNAT, priority),
        (ChainType::Nat, NatKind::Source) => (PRIORITY_SNAT, priority),
        _ => (priority, 0),
    }
}

fn manip(hook: Hook) -> NatKind {
    match hook {
        Hook::Prerouting | Hook::Output | Hook::Forward => NatKind::Destination,
        Hook::Postrouting | Hook::Input => NatKind::Source,
    }
}

/// What a rule made of a packet.
enum Effect {
    /// A match failed: the next rule's turn.
    Break,
    /// All statements ran.
    Continue,
    Verdict(Verdict),
    Final(Fate),
}

/// The value of a register run.
fn bytes(value: &[u8]) -> Value {
    Value::new(value)
}
