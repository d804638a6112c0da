//! What each Service port asks for: lists, places to listen at, elements. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use nft::{Content, Data, Key, Value, Verdict as Target};
use proxy::{Refusal, RefusalReason};
use service_model::{
    Frontend, IpFamily, NodePortAddresses, Protocol, ServicePort, ServicePortName, SourceRanges, Verdict,
};

use crate::layout::{REJECT, SetName};
use crate::list::{List, ListId, Place, Way};
use crate::state::{Elements, Ground, Rules, frontend_key, listener, to_listener};

/// What all ports together ask for.
#[derive(Debug, Default)]
pub struct Wanted {
    pub lists: BTreeMap<ListId, List>,
    pub doors: BTreeMap<Place, ListId>,
    pub elements: BTreeMap<SetName, Elements>,
    pub refused: Vec<Refusal>,
    /// Where to look for a free port next.
    pub next_port: u16,
}

/// Where listeners are put when rules lead to them.
pub struct Homes<'a> {
    pub family: IpFamily,
    pub home: IpAddr,
    pub ground: &'a Ground,
    pub rules: &'a Rules,
    /// Open already.
    pub doors: BTreeMap<&'a ListId, Place>,
    /// Ports that somebody listens at, or will by this plan.
    given: BTreeSet<u16>,
    /// Ports that the rules lead to as they are. Whoever came there newly would get others' packets.
    led_to: Option<BTreeSet<u16>>,
    next: u16,
}

/// Listeners may take this share of the ports there are: whoever connects from the node needs some too.
const SHARE: (usize, usize) = (3, 4);

impl Wanted {
    fn refuse(&mut self, port: &ServicePortName, reason: RefusalReason) {
        self.refused.push(Refusal { port: port.clone(), reason });
    }

    fn element(&mut self, set: SetName, key: Key, content: Content) {
        self.elements.entry(set).or_default().insert(key, content);
    }

    /// One Service port whose packets are led to listeners.
    pub fn by_rules(&mut self, name: &ServicePortName, port: &Arc<ServicePort>, homes: &mut Homes<'_>) {
        // All or nothing: no rules lead to a listener, nor guard it, whose port can't be served whole.
        let places = match homes.places(name, port) {
            Ok(places) => places,
            // Nobody will ever listen for it, and whoever comes is told so.
            Err(RefusalReason::NotRelayed) => {
                self.refuse(name, RefusalReason::NotRelayed);
                BTreeMap::new()
            }
            Err(reason) => return self.refuse(name, reason),
        };
        for (way, place) in &places {
            let id = ListId { port: name.clone(), way: *way };
            self.element(SetName::Listeners, place.key(), Content::default());
            self.doors.insert(*place, id.clone());
            self.lists.insert(id, List { port: port.clone(), way: *way });
        }
        for frontend in &port.frontends {
            self.lead(frontend, port, &places);
            self.guard(frontend, port);
        }
    }

    /// Who is here is never given less than strangers are (`service-model` sees to it), so what denies those here alone
    /// need not win over a listener for others.
    fn lead(&mut self, frontend: &Frontend, port: &ServicePort, places: &BTreeMap<Way, Place>) {
        let key = frontend_key(frontend.key(port.protocol));
        let others = Way::of_others(frontend);
        let here = Way::of_here(frontend, port);
        let ways = [(others, port.verdict(frontend)), (here, port.local_verdict(frontend))];
        let distinct = 1 + usize::from(here != others);
        for (way, verdict) in &ways[..distinct] {
            let local = *way == Way::Here;
            let (set, content) = match verdict {
                Verdict::Reject => (denied(frontend, local), to(Target::Goto(REJECT.to_owned()))),
                Verdict::Drop => (denied(frontend, local), to(Target::Drop)),
                Verdict::Forward(_) => match places.get(way) {
                    Some(place) => (leading(frontend, local), to_listener(place.address)),
                    None => (denied(frontend, local), to(Target::Goto(REJECT.to_owned()))),
                },
            };
            self.element(set, key.clone(), content);
        }
    }

    fn guard(&mut self, frontend: &Frontend, port: &ServicePort) {
        let key = frontend_key(frontend.key(port.protocol));
        match (frontend, &port.source_ranges) {
            (Frontend::ClusterIp { address, .. }, _) => {
                self.element(SetName::ClusterIps, Value::addr(*address).into(), Content::default());
            }
            (Frontend::LoadBalancerIp { address, .. }, Some(SourceRanges { allowed, virtual_address_too })) => {
                let mut ranges = allowed.clone();
                if *virtual_address_too {
                    ranges.push((*address).into());
                }
                // A set of intervals takes none inside another.
                for range in IpNet::aggregate(&ranges) {
                    let bound =
                        |address: IpAddr| Value::new([key.start.as_bytes(), Value::addr(address).as_bytes()].concat());
                    let range = Key::range(bound(range.network()), bound(range.broadcast()));
                    self.element(SetName::AllowedSources, range, Content::default());
                }
                self.element(SetName::Restricted, key, Content::default());
            }
            _ => {}
        }
    }

    /// One Service port whose frontends are listened on themselves. Whoever comes there is on this node.
    pub fn by_itself(
        &mut self,
        name: &ServicePortName,
        port: &Arc<ServicePort>,
        node_ports: &NodePortAddresses,
        family: IpFamily,
        ground: &Ground,
    ) {
        if port.protocol == Protocol::Sctp {
            return self.refuse(name, RefusalReason::NotRelayed);
        }
        for frontend in &port.frontends {
            let addresses = match (frontend.address(), node_ports) {
                (Some(address), _) => vec![address],
                (None, NodePortAddresses::AllLocal) => vec![loopback(family)],
                (None, NodePortAddresses::Only(only)) => only.iter().copied().collect(),
            };
            let restricted = matches!(frontend, Frontend::LoadBalancerIp { .. }) && port.source_ranges.is_some();
            for address in addresses {
                let place =
                    Place { protocol: port.protocol, address: SocketAddr::new(address, frontend.port().number()) };
                if restricted || !address.is_loopback() {
                    self.refuse(name, RefusalReason::NeedsRules);
                } else if let Some(reason) = ground.unusable.get(&place) {
                    self.refuse(name, *reason);
                } else if !port.local_verdict(frontend).endpoints().is_empty() {
                    let way = Way::of_here(frontend, port);
                    let id = ListId { port: name.clone(), way };
                    self.doors.insert(place, id.clone());
                    self.lists.insert(id, List { port: port.clone(), way });
                }
            }
        }
        self.refused.dedup();
    }
}

impl<'a> Homes<'a> {
    pub fn new(
        family: IpFamily,
        home: IpAddr,
        ground: &'a Ground,
        rules: &'a Rules,
        doors: &'a BTreeMap<Place, ListId>,
    ) -> Homes<'a> {
        let at_home = doors.iter().filter(|(place, _)| place.address.ip() == home);
        let doors: BTreeMap<&ListId, Place> = at_home.map(|(place, list)| (list, *place)).collect();
        let given = doors.values().map(|place| place.address.port()).collect();
        Homes { family, home, ground, rules, doors, given, led_to: None, next: ground.next_port }
    }

    pub fn next_port(&self) -> u16 {
        self.next
    }

    /// Where each of a port's lists is listened for. If one can't be, none keeps a new place.
    fn places(
        &mut self,
        name: &ServicePortName,
        port: &Arc<ServicePort>,
    ) -> Result<BTreeMap<Way, Place>, RefusalReason> {
        if port.protocol == Protocol::Sctp {
            return Err(RefusalReason::NotRelayed);
        }
        let mut places = BTreeMap::new();
        for way in port.frontends.iter().flat_map(|frontend| [Way::of_others(frontend), Way::of_here(frontend, port)]) {
            if places.contains_key(&way) || (List { port: port.clone(), way }).endpoints().is_empty() {
                continue;
            }
            match self.place(&ListId { port: name.clone(), way }, port) {
                Ok(place) => drop(places.insert(way, place)),
                Err(reason) => {
                    for place in places.values().filter(|place| !self.doors.values().any(|open| open == *place)) {
                        self.given.remove(&place.address.port());
                    }
                    return Err(reason);
                }
            }
        }
        Ok(places)
    }

    /// Where a list is listened for: where it is already, where its frontends lead already, or at a new place.
    fn place(&mut self, list: &ListId, port: &ServicePort) -> Result<Place, RefusalReason> {
        if let Some(place) = self.doors.get(list) {
            return Ok(*place);
        }
        if let Some(reason) = self.ground.exhausted {
            return Err(reason);
        }
        let at = |number| Place { protocol: port.protocol, address: SocketAddr::new(self.home, number) };
        let (ports, unusable) = (&self.ground.ports, &self.ground.unusable);
        if let Some(known) = self.found(list.way, port)
            && ports.contains(&known)
            && !unusable.contains_key(&at(known))
            && self.given.insert(known)
        {
            return Ok(at(known));
        }
        let (rules, family) = (self.rules, self.family);
        let led_to = self.led_to.get_or_insert_with(|| rules.listeners(family).map(|to| to.port()).collect());
        let all = usize::from(ports.end().saturating_sub(*ports.start())) + 1;
        if self.given.len() >= all * SHARE.0 / SHARE.1 {
            return Err(RefusalReason::TooManyListeners);
        }
        for _ in 0..all {
            let number = if ports.contains(&self.next) { self.next } else { *ports.start() };
            self.next = if number == *ports.end() { *ports.start() } else { number + 1 };
            if !led_to.contains(&number) && !unusable.contains_key(&at(number)) && self.given.insert(number) {
                return Ok(at(number));
            }
        }
        Err(RefusalReason::TooManyListeners)
    }

    /// The port at home that the rules lead a list's frontends to: a former process listened there for them.
    fn found(&self, way: Way, port: &ServicePort) -> Option<u16> {
        let local = way == Way::Here;
        let theirs = port.frontends.iter().filter(|frontend| match way {
            Way::Internal => frontend.is_internal(),
            Way::External | Way::Here => !frontend.is_internal(),
        });
        let mut found = theirs.filter_map(|frontend| {
            let key = frontend_key(frontend.key(port.protocol));
            let content = self.rules.content(leading(frontend, local), &key)?;
            listener(content, self.family)
        });
        found.find(|address| address.ip() == self.home).map(|address| address.port())
    }
}

fn leading(frontend: &Frontend, local: bool) -> SetName {
    match (frontend, local) {
        (Frontend::NodePort { .. }, false) => SetName::NodePorts,
        (Frontend::NodePort { .. }, true) => SetName::LocalNodePorts,
        (_, false) => SetName::Frontends,
        (_, true) => SetName::LocalFrontends,
    }
}

fn denied(frontend: &Frontend, local: bool) -> SetName {
    match (frontend, local) {
        (Frontend::NodePort { .. }, false) => SetName::DeniedNodePorts,
        (Frontend::NodePort { .. }, true) => SetName::LocalDeniedNodePorts,
        (_, false) => SetName::Denied,
        (_, true) => SetName::LocalDenied,
    }
}

fn to(target: Target) -> Content {
    Content { data: Some(Data::Verdict(target)), ..Content::default() }
}

fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}
