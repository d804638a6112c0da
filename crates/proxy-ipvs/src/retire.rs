//! What becomes of the mode when another has taken its place: nothing leads to IPVS any more, and the connections it has go on
//! until they end. Pure; executing it is `apply`'s.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use conntrack::Flow;
use ipvs::{Op, ServerKey};
use nft::expr::ct_status;
use nft::rule::Load;
use nft::{Chain, Reject, Rule, Transaction, Value};
use service_model::{IpFamily, Protocol};

use crate::layout::{SetName, Settings, leaves, table};
use crate::object::{Content, Object};
use crate::state::{Observed, Place};
use crate::steps::NftEdit;

/// What nobody needs any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Going {
    pub servers: BTreeSet<ServerKey>,
    /// All destinations that go, also with their servers.
    pub places: BTreeSet<Place>,
    pub addresses: Vec<IpAddr>,
    /// Nothing stays.
    pub all: bool,
}

impl Settings {
    /// The chains when another mode's rules find frontends. While an address of a Service is this node's, whatever listens
    /// on all addresses must still not answer there; and the node, which takes such an address as its own when it sends
    /// there, is masqueraded.
    pub fn quiet(&self) -> Vec<(Chain, Vec<Rule>)> {
        let (l3, tcp) = (self.l3(), Protocol::Tcp.number());
        let nobody = || {
            // A first packet. That of IPVS's datagrams nobody answers remain "new" for as long as they are sent.
            let first = Rule::new().masked(Load::CtStatus, Value::mark(ct_status::CONFIRMED), Value::mark(0));
            first.in_set(&[Load::Daddr(l3)], SetName::Bound.name())
        };
        let not_icmp = nobody().is_not(Load::L4Proto, Value::proto(self.icmp()));
        let input = vec![nobody().l4proto(tcp).reject(Reject::TcpReset), not_icmp.reject(self.port_unreachable())];
        let of_node = leaves().in_set(&[Load::Saddr(l3)], SetName::Bound.name());
        let postrouting = vec![of_node.masquerade_fully_random()];
        let rules = |chain: &Chain| match chain.name.as_str() {
            "input" => input.clone(),
            "postrouting" => postrouting.clone(),
            _ => Vec::new(),
        };
        self.chains().into_iter().map(|(chain, _)| (chain.clone(), rules(&chain))).collect()
    }
}

/// Empties a table that is ours: connections need its hooks, IPVS's addresses and the list of its servers. `None` if it has
/// been done.
pub fn silence(family: IpFamily, observed: &Observed) -> Option<Transaction> {
    let settings = Settings::plain(family);
    let stays = |set: SetName| matches!(set, SetName::Bound | SetName::Servers);
    let leads = |object: &Object| matches!(object, Object::Element(set, _) if !stays(*set));
    let quiet = settings.quiet();
    let is_quiet = quiet.iter().all(|(chain, rules)| observed.rules.get(&chain.name) == Some(rules));
    if is_quiet && !observed.objects.keys().any(leads) {
        return None;
    }
    let mut transaction = rules(family);
    for set in SetName::ALL.into_iter().filter(|set| !stays(*set)) {
        transaction.flush_set(&set.set(family));
    }
    Some(transaction)
}

/// The rules alone.
pub fn rules(family: IpFamily) -> Transaction {
    let mut transaction = Transaction::new(table(family));
    for (chain, rules) in Settings::plain(family).quiet() {
        transaction.replace_rules(&chain.name, &rules);
    }
    transaction
}

/// What makes a table again that somebody has damaged.
pub fn anew(observed: &Observed) -> Vec<NftEdit> {
    let put = |object: Object| match object {
        Object::Element(set, key) => Some(NftEdit::Put { set, key, data: None, replaces: false }),
        _ => None,
    };
    let listed = observed.objects.keys().filter_map(|object| match object {
        Object::Address(address) => put(Object::single(SetName::Bound, *address)),
        Object::Server(server) if !observed.foreign.contains(server) => Object::ledger(server).and_then(put),
        _ => None,
    });
    [NftEdit::Rebuild].into_iter().chain(listed).collect()
}

/// Destinations of ours that still get connections.
pub fn open_places(observed: &Observed) -> Vec<Place> {
    let open = |(object, content): (&Object, &Content)| match (object, content) {
        (Object::Destination(server, at), Content::Destination(destination))
            if destination.weight > 0 && !observed.foreign.contains(server) =>
        {
            Some((*server, *at))
        }
        _ => None,
    };
    observed.objects.iter().filter_map(open).collect()
}

impl Going {
    /// `sources` are addresses that somebody on this node sends from.
    pub fn of(observed: &Observed, sources: &BTreeSet<IpAddr>) -> Going {
        let busy: BTreeSet<ServerKey> = observed.busy.iter().map(|(server, _)| *server).collect();
        let busy = &busy - &observed.foreign;
        let marked = busy.iter().any(|server| matches!(server, ServerKey::Mark { .. }));
        let served = |address: &IpAddr| {
            // Whose packets a mark's server has is not known.
            marked || busy.iter().any(|server| matches!(server, ServerKey::Address { at, .. } if at.ip() == *address))
        };
        let mut going = Going { all: busy.is_empty(), ..Going::default() };
        for object in
            observed.objects.keys().filter(|object| !object.server().is_some_and(|of| observed.foreign.contains(of)))
        {
            match object {
                Object::Server(server) if !busy.contains(server) => drop(going.servers.insert(*server)),
                Object::Destination(server, at) if !observed.busy.contains(&(*server, *at)) => {
                    going.places.insert((*server, *at));
                }
                Object::Address(address) if served(address) || sources.contains(address) => going.all = false,
                Object::Address(address) => going.addresses.push(*address),
                _ => {}
            }
        }
        going
    }

    pub fn ops(&self) -> Vec<Op> {
        let alone = self.places.iter().filter(|(server, _)| !self.servers.contains(server));
        let destinations = alone.map(|(server, at)| Op::DeleteDestination(*server, *at));
        destinations.chain(self.servers.iter().map(|server| Op::DeleteServer(*server))).collect()
    }

    /// What the table needs no more, of what it has.
    pub fn edits(&self, observed: &Observed) -> Vec<NftEdit> {
        let bound = self.addresses.iter().map(|address| Object::single(SetName::Bound, *address));
        let listed = self.servers.iter().filter_map(Object::ledger);
        let there = bound.chain(listed).filter(|object| observed.objects.contains_key(object));
        let drop = |object| match object {
            Object::Element(set, key) => Some(NftEdit::Drop { set, key }),
            _ => None,
        };
        there.filter_map(drop).collect()
    }

    /// Whether a tracked flow was one of those servers': its next packet has to meet the rules as if it were the first. IPVS
    /// says where it answers from, and doesn't call it translated.
    pub fn had(&self, flow: &Flow) -> bool {
        let (asked, answers) = (flow.original.destination, flow.reply.source);
        let [asked, answers] = [asked, answers].map(|end| SocketAddr::new(end.addr, end.port));
        let server = ServerKey::Address { protocol: flow.original.proto, at: asked };
        let by_mark = |(server, at): &Place| matches!(server, ServerKey::Mark { .. }) && *at == answers;
        asked != answers
            && !flow.status.is_destination_translated()
            && (self.servers.contains(&server)
                || self.places.contains(&(server, answers))
                || self.places.iter().any(by_mark))
    }
}

/// Addresses of ours that somebody on this node sends from: the kernel makes them do so when that's where they send to.
pub fn sources(observed: &Observed, flows: &[Flow]) -> BTreeSet<IpAddr> {
    let from = flows.iter().map(|flow| flow.original.source.addr);
    from.filter(|address| observed.objects.contains_key(&Object::Address(*address))).collect()
}
