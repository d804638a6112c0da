//! The smallest changes, and the order in which they may happen: what is led to comes before what leads there, and goes after
//! it, so that no packet meets half a Service. Not responsible for which changes are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipvs::{DEVICE, Destination, Op, ServerKey};
use nft::{Data, Element, Key, Rule, Transaction};

use crate::layout::{SetName, Settings, table};
use crate::object::{Content, Object};
use crate::state::Place;

/// Edits of one transaction: they have to fit the socket's send buffer, often 212,992 bytes.
pub const EDITS: usize = 1_000;
/// Changes of virtual servers in one step, after which others get their turn.
const OPS: usize = 1_000;

/// A transaction, or changes each of which takes effect by itself and leaves a state that we can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Table(Vec<NftEdit>),
    Servers(Vec<Op>),
    Bind(Vec<IpAddr>),
    Unbind(Vec<IpAddr>),
    /// Destinations that get no more connections; those that have none left go. Only the kernel knows which.
    Retire(Vec<Place>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NftEdit {
    /// Replaces the table by one without Services and without rules.
    Rebuild,
    ReplaceRules {
        chain: String,
        rules: Vec<Rule>,
    },
    /// The kernel wants an element deleted before it is added with other data.
    Put {
        set: SetName,
        key: Key,
        data: Option<Data>,
        replaces: bool,
    },
    Drop {
        set: SetName,
        key: Key,
    },
}

/// When an object may come, and when it may go.
#[derive(Default)]
pub struct Phases {
    structure: Vec<NftEdit>,
    rules: Vec<NftEdit>,
    ledger: Vec<NftEdit>,
    servers: Vec<Op>,
    destinations: Vec<Op>,
    support: Vec<NftEdit>,
    switch: Vec<NftEdit>,
    bind: Vec<IpAddr>,
    unbind: Vec<IpAddr>,
    retire: Vec<Place>,
    cut: Vec<Op>,
    remove: Vec<Op>,
    rest: Vec<NftEdit>,
}

impl Phases {
    pub fn structure(&mut self, edit: NftEdit) {
        match edit {
            // A table that is new, or that another mode had silenced, says nothing yet of what its Services' addresses are
            // for, and the mode that is still in force must not be kept from them.
            NftEdit::ReplaceRules { .. } => self.rules.push(edit),
            _ => self.structure.push(edit),
        }
    }

    /// An object is to be there with this content; `before` is the one it has.
    pub fn put(&mut self, object: &Object, content: &Content, before: Option<&Content>) {
        match (object, content) {
            (Object::Element(set, key), Content::Element(data)) => {
                let edit = NftEdit::Put { set: *set, key: key.clone(), data: data.clone(), replaces: before.is_some() };
                match set {
                    SetName::Servers => self.ledger.push(edit),
                    set if set.decides() => self.switch.push(edit),
                    _ => self.support.push(edit),
                }
            }
            (Object::Server(key), Content::Server(server)) => self.servers.push(match before {
                None => Op::AddServer(*key, server.clone()),
                Some(_) => Op::SetServer(*key, server.clone()),
            }),
            (Object::Destination(key, at), Content::Destination(destination)) => {
                self.destinations.push(match before {
                    None => Op::AddDestination(*key, *at, *destination),
                    Some(_) => Op::SetDestination(*key, *at, *destination),
                });
            }
            (Object::Address(address), _) => self.bind.push(*address),
            // No object has another kind's content.
            _ => {}
        }
    }

    /// An object is to be there no more.
    pub fn remove(&mut self, object: &Object) {
        match object {
            Object::Element(set, key) => {
                let edit = NftEdit::Drop { set: *set, key: key.clone() };
                match set {
                    // A set of intervals takes none that overlaps one that is about to go.
                    SetName::AllowedSources => self.support.insert(0, edit),
                    set if set.decides() => self.switch.push(edit),
                    _ => self.rest.push(edit),
                }
            }
            Object::Server(key) => self.remove.push(Op::DeleteServer(*key)),
            // Datagrams must not reach it any more, and no connection is lost with it.
            Object::Destination(key, at) if Object::takes_datagrams(key) => {
                self.cut.push(Op::DeleteDestination(*key, *at));
            }
            Object::Destination(key, at) => self.retire.push((*key, *at)),
            Object::Address(address) => self.unbind.push(*address),
        }
    }

    pub fn finish(self) -> Vec<Step> {
        let mut steps = Vec::new();
        let tables = |steps: &mut Vec<Step>, edits: Vec<NftEdit>| {
            steps.extend(edits.chunks(EDITS).map(|chunk| Step::Table(chunk.to_vec())));
        };
        let servers = |steps: &mut Vec<Step>, ops: Vec<Op>| {
            steps.extend(ops.chunks(OPS).map(|chunk| Step::Servers(chunk.to_vec())));
        };
        tables(&mut steps, self.structure);
        tables(&mut steps, self.ledger);
        servers(&mut steps, self.servers);
        servers(&mut steps, self.destinations);
        tables(&mut steps, self.support);
        tables(&mut steps, self.switch);
        tables(&mut steps, self.rules);
        steps.extend(self.bind.chunks(OPS).map(|chunk| Step::Bind(chunk.to_vec())));
        steps.extend(self.unbind.chunks(OPS).map(|chunk| Step::Unbind(chunk.to_vec())));
        steps.extend(self.retire.chunks(OPS).map(|chunk| Step::Retire(chunk.to_vec())));
        servers(&mut steps, self.cut);
        servers(&mut steps, self.remove);
        tables(&mut steps, self.rest);
        steps
    }
}

impl SetName {
    /// Whether its elements decide what becomes of a packet.
    fn decides(self) -> bool {
        matches!(
            self,
            SetName::Frontends
                | SetName::PodFrontends
                | SetName::NodeFrontends
                | SetName::NodePorts
                | SetName::PodNodePorts
                | SetName::NodeNodePorts
        )
    }
}

/// The transaction that does all of the edits.
pub fn transaction(settings: &Settings, edits: &[NftEdit]) -> Transaction {
    let family = settings.family;
    let mut transaction = Transaction::new(table(family));
    let mut deleted: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    let mut added: BTreeMap<SetName, Vec<Element>> = BTreeMap::new();
    for edit in edits {
        match edit {
            NftEdit::Rebuild => {
                let chains = settings.chains().into_iter().map(|(chain, _)| (chain, Vec::new())).collect();
                transaction.rebuild(SetName::ALL.map(|set| set.set(settings.family)), chains);
            }
            NftEdit::ReplaceRules { chain, rules } => drop(transaction.replace_rules(chain, rules)),
            NftEdit::Put { set, key, data, replaces } => {
                if *replaces {
                    deleted.entry(*set).or_default().push(Element::new(key.clone()));
                }
                let mut element = Element::new(key.clone());
                element.content.data.clone_from(data);
                added.entry(*set).or_default().push(element);
            }
            NftEdit::Drop { set, key } => deleted.entry(*set).or_default().push(Element::new(key.clone())),
        }
    }
    for (set, elements) in deleted {
        transaction.delete_elements(&set.set(family), elements);
    }
    for (set, elements) in added {
        transaction.add_elements(&set.set(family), elements);
    }
    transaction
}

/// What retiring begins with.
pub fn closing(places: &[Place]) -> Vec<Op> {
    places.iter().map(|(server, at)| Op::SetDestination(*server, *at, Destination::masqueraded(0))).collect()
}

/// The servers that places are of.
pub fn servers_of(places: &[Place]) -> BTreeSet<ServerKey> {
    places.iter().map(|(server, _)| *server).collect()
}

/// As `nft`, `ipvsadm --restore` and `ip -batch` would be told.
pub fn show(f: &mut fmt::Formatter<'_>, settings: &Settings, step: &Step) -> fmt::Result {
    match step {
        Step::Table(edits) => writeln!(f, "{}", transaction(settings, edits)),
        Step::Servers(ops) => ops.iter().try_for_each(|op| writeln!(f, "ipvsadm {op}")),
        Step::Bind(addresses) => {
            addresses.iter().try_for_each(|address| writeln!(f, "ip address add {address} dev {DEVICE}"))
        }
        Step::Unbind(addresses) => {
            addresses.iter().try_for_each(|address| writeln!(f, "ip address delete {address} dev {DEVICE}"))
        }
        Step::Retire(places) => {
            closing(places).iter().try_for_each(|op| writeln!(f, "ipvsadm {op}"))?;
            writeln!(f, "# then delete those of them that have no connections")
        }
    }
}
