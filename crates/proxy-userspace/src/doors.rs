//! This process's listeners and the pools they lead to. Opens and closes what a plan says, and reports what it couldn't.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use conntrack::{Conntrack, ConntrackError, Family, Filter, Flow, FlowId};
use nix::ifaddrs::getifaddrs;
use proxy::RefusalReason;
use service_model::{Endpoint, IpFamily, Protocol, ServicePortName};
use socket2::{Domain, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::list::{List, ListId, Place};
use crate::relay::{Door, Memory, Pool, Relay};
use crate::state::{Ground, Process};

/// After this long a place that could not be bound is tried again.
pub const TRIED_AGAIN: Duration = Duration::from_secs(60);
const BACKLOG: i32 = 4096;
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Of one family.
pub struct Doors {
    family: IpFamily,
    relay: Relay,
    open: BTreeMap<Place, (ListId, Door)>,
    lists: BTreeMap<ListId, (List, Arc<Pool>)>,
    memories: BTreeMap<ServicePortName, Arc<Memory>>,
    unusable: BTreeMap<Place, (RefusalReason, Instant)>,
    exhausted: Option<(RefusalReason, Instant)>,
    pub next_port: u16,
}

impl Doors {
    pub fn new(family: IpFamily) -> Doors {
        // A process doesn't begin where the one before it did.
        let first = RandomState::new().hash_one(family.address_type());
        Doors {
            family,
            // Connections end with the process, not with this mode.
            relay: Relay::new(CancellationToken::new()),
            open: BTreeMap::new(),
            lists: BTreeMap::new(),
            memories: BTreeMap::new(),
            unusable: BTreeMap::new(),
            exhausted: None,
            next_port: 32_768 + u16::try_from(first % 28_000).unwrap_or(0),
        }
    }

    pub fn process(&self) -> Process {
        Process {
            lists: self.lists.iter().map(|(id, (list, _))| (id.clone(), list.clone())).collect(),
            doors: self.open.iter().map(|(place, (id, _))| (*place, id.clone())).collect(),
        }
    }

    /// Looks around anew; what could not be bound long ago may be tried again.
    pub fn ground(&mut self, now: Instant) -> io::Result<Ground> {
        let recent = |since: Instant| now.saturating_duration_since(since) < TRIED_AGAIN;
        self.unusable.retain(|_, (_, since)| recent(*since));
        self.exhausted = self.exhausted.filter(|(_, since)| recent(*since));
        Ok(Ground {
            addresses: addresses(self.family)?,
            ports: port_range().unwrap_or(Ground::default().ports),
            next_port: self.next_port,
            unusable: self.unusable.iter().map(|(place, (reason, _))| (*place, *reason)).collect(),
            exhausted: self.exhausted.map(|(reason, _)| reason),
        })
    }

    /// Whether a look around might show something else than `ground`.
    pub fn is_stale(&self, ground: &Ground, now: Instant) -> io::Result<bool> {
        let old = |since: &Instant| now.saturating_duration_since(*since) >= TRIED_AGAIN;
        let again =
            self.unusable.values().map(|(_, since)| since).chain(self.exhausted.as_ref().map(|(_, since)| since));
        Ok(again.into_iter().any(old) || addresses(self.family)? != ground.addresses)
    }

    pub fn lead(&mut self, id: &ListId, list: &List) {
        let memory = self.memories.entry(id.port.clone()).or_default();
        let alive: BTreeSet<SocketAddr> = list.port.endpoints().into_iter().map(Endpoint::socket).collect();
        memory.keep(|endpoint| alive.contains(endpoint));
        match self.lists.get_mut(id) {
            Some((known, pool)) => {
                *known = list.clone();
                pool.lead(list.aim());
            }
            None => {
                let pool = Arc::new(Pool::new(list.aim(), memory.clone()));
                self.lists.insert(id.clone(), (list.clone(), pool));
            }
        }
    }

    /// Who listens at these places, for other lists: to be closed before others do.
    pub fn vacate(&mut self, places: &[(Place, ListId)]) -> Vec<Door> {
        places.iter().filter_map(|(place, _)| self.open.remove(place)).map(|(_, door)| door).collect()
    }

    /// Remembers what can't be bound, and why. False if it can't.
    pub fn listen(&mut self, place: Place, id: &ListId) -> bool {
        let Some((_, pool)) = self.lists.get(id) else { return false };
        match bind(place).and_then(|socket| self.serve(place.protocol, socket, pool.clone())) {
            Ok(door) => {
                self.open.insert(place, (id.clone(), door));
                true
            }
            Err(error) => {
                tracing::warn!(%error, %place, list = %id, "cannot listen");
                let now = Instant::now();
                match reason(&error) {
                    // A new IPv6 address can't be used before it's known that no neighbour has it: no fault of the port's.
                    RefusalReason::NotLocal if !place.address.ip().is_loopback() => {}
                    RefusalReason::NoSockets => self.exhausted = Some((RefusalReason::NoSockets, now)),
                    reason => drop(self.unusable.insert(place, (reason, now))),
                }
                false
            }
        }
    }

    fn serve(&self, protocol: Protocol, socket: Socket, pool: Arc<Pool>) -> io::Result<Door> {
        match protocol {
            Protocol::Tcp => self.relay.tcp(socket.into(), pool),
            Protocol::Udp => self.relay.udp(socket.into(), pool),
            Protocol::Sctp => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn close(&mut self, places: &[Place], lists: &[ListId]) {
        places.iter().for_each(|place| drop(self.open.remove(place)));
        lists.iter().for_each(|list| drop(self.lists.remove(list)));
        let needed = |name: &ServicePortName| self.lists.keys().any(|list| list.port == *name);
        for list in lists {
            if !needed(&list.port) {
                self.memories.remove(&list.port);
            }
        }
    }

    pub fn is_any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Forgets UDP flows that are translated to listeners here: their next packets meet whatever rules there are then. Call
    /// it when no rule leads here any more. Tells which are gone.
    pub fn forget_flows(&self, mut which: impl FnMut(&Flow) -> bool) -> Result<BTreeSet<FlowId>, ConntrackError> {
        let mut forgotten = BTreeSet::new();
        if !self.open.keys().any(|place| place.protocol == Protocol::Udp) {
            return Ok(forgotten);
        }
        let mut conntrack = Conntrack::open()?;
        let family = if self.family == IpFamily::V4 { Family::Ipv4 } else { Family::Ipv6 };
        let udp = Filter { family: Some(family), proto: Some(Protocol::Udp.number()), ..Filter::default() };
        for flow in conntrack.list(&udp)? {
            let answers = flow.reply.source;
            if self.answers_at(SocketAddr::new(answers.addr, answers.port)) && which(&flow) {
                conntrack.delete(&flow)?;
                forgotten.insert(flow.id);
            }
        }
        Ok(forgotten)
    }

    pub fn close_all(&mut self) {
        self.open.clear();
        self.lists.clear();
        self.memories.clear();
    }

    /// How many connections were turned away so far.
    pub fn turned_away(&self) -> u64 {
        self.relay.turned_away()
    }

    /// Whether a UDP flow that is translated to this address is served here.
    pub fn answers_at(&self, address: SocketAddr) -> bool {
        self.open.contains_key(&Place { protocol: Protocol::Udp, address })
    }
}

fn bind(place: Place) -> io::Result<Socket> {
    let kind = if place.protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(place.address), kind, None)?;
    socket.set_nonblocking(true)?;
    if place.address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A former process's connections may still be ending there.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&place.address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn reason(error: &io::Error) -> RefusalReason {
    match error.kind() {
        io::ErrorKind::AddrInUse => RefusalReason::AddressInUse,
        io::ErrorKind::PermissionDenied => RefusalReason::PortNotPermitted,
        io::ErrorKind::AddrNotAvailable => RefusalReason::NotLocal,
        _ => RefusalReason::NoSockets,
    }
}

/// The addresses of the current network namespace that others can send to.
fn addresses(family: IpFamily) -> io::Result<BTreeSet<IpAddr>> {
    let all = getifaddrs()?.filter_map(|interface| interface.address).filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    let of_link = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    Ok(all.filter(|address| IpFamily::of(*address) == family && !address.is_loopback() && !of_link(address)).collect())
}

fn port_range() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string(PORT_RANGE).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}
