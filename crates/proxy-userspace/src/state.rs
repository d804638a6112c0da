//! What is in force: the table's rules and elements, and where this process listens for whom. Not responsible for what
//! should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use nft::{Content, Data, Field, Key, MapData, Rule, Ruleset, Value};
use proxy::RefusalReason;
use service_model::{FrontendKey, IpFamily};

use crate::layout::{SetName, Settings};
use crate::list::{List, ListId, Place};

/// The elements of one set or map.
pub type Elements = BTreeMap<Key, Content>;

/// Everything that is ours, as far as we know.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub rules: Rules,
    pub process: Process,
    pub ground: Ground,
    /// Counts the foreign writes seen when this was read.
    pub epoch: nft::Epoch,
}

/// Our table.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The table is there with the right sets and chains. If not, nothing else in here counts.
    pub sound: bool,
    pub chains: BTreeMap<String, Vec<Rule>>,
    pub sets: BTreeMap<SetName, Arc<Elements>>,
}

/// This process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub lists: BTreeMap<ListId, List>,
    pub doors: BTreeMap<Place, ListId>,
}

/// What there is to listen on.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The node's addresses, without those of the loopback and of links.
    pub addresses: BTreeSet<IpAddr>,
    /// What the kernel itself would choose from: nobody expects anybody in particular there.
    pub ports: RangeInclusive<u16>,
    /// Where to look for a free one next, so that none is used again soon.
    pub next_port: u16,
    /// Could not be bound.
    pub unusable: BTreeMap<Place, RefusalReason>,
    /// No socket can be opened at all.
    pub exhausted: Option<RefusalReason>,
}

impl Default for Ground {
    fn default() -> Ground {
        Ground {
            addresses: BTreeSet::new(),
            // Linux's own range (ip_local_port_range).
            ports: 32_768..=60_999,
            next_port: 32_768,
            unusable: BTreeMap::new(),
            exhausted: None,
        }
    }
}

impl Rules {
    pub fn read(ruleset: &Ruleset, family: IpFamily) -> Rules {
        if !has_our_shape(ruleset, family) {
            return Rules::default();
        }
        let chains = ruleset.chains.iter().map(|(name, state)| (name.clone(), state.rules.clone())).collect();
        let elements = |set: SetName| ruleset.sets.get(set.name()).map(|state| state.elements.clone());
        let sets = SetName::ALL.into_iter().filter_map(|set| Some((set, elements(set)?))).collect();
        Rules { sound: true, chains, sets }
    }

    /// As right after a rebuild.
    pub fn rebuilt(settings: &Settings) -> Rules {
        let chains = settings.chains_before_services().into_iter().map(|(chain, rules)| (chain.name, rules)).collect();
        Rules { sound: true, chains, sets: BTreeMap::new() }
    }

    pub fn elements(&self, set: SetName) -> impl Iterator<Item = (&Key, &Content)> {
        self.sets.get(&set).into_iter().flat_map(|elements| elements.iter())
    }

    pub fn content(&self, set: SetName, key: &Key) -> Option<&Content> {
        self.sets.get(&set)?.get(key)
    }

    pub fn put(&mut self, set: SetName, key: Key, content: Content) {
        Arc::make_mut(self.sets.entry(set).or_default()).insert(key, content);
    }

    pub fn remove(&mut self, set: SetName, key: &Key) {
        if let Some(elements) = self.sets.get_mut(&set) {
            Arc::make_mut(elements).remove(key);
        }
    }

    /// Where each of the frontends leads that lead to a listener.
    pub fn listeners(&self, family: IpFamily) -> impl Iterator<Item = SocketAddr> {
        let leading = SetName::LEADING.into_iter().flat_map(|set| self.elements(set));
        leading.filter_map(move |(_, content)| listener(content, family))
    }
}

/// The key of a frontend.
pub fn frontend_key(key: FrontendKey) -> Key {
    match key {
        FrontendKey::Address(address, protocol, port) => {
            Value::concat().addr(address).proto(protocol.number()).port(port.number()).value().into()
        }
        FrontendKey::NodePort(protocol, port) => {
            Value::concat().proto(protocol.number()).port(port.number()).value().into()
        }
    }
}

/// What leads to a listener.
pub fn to_listener(address: SocketAddr) -> Content {
    let value = Value::concat().addr(address.ip()).port(address.port()).value();
    Content { data: Some(Data::Value(value)), ..Content::default() }
}

/// The inverse of `to_listener`.
pub fn listener(content: &Content, family: IpFamily) -> Option<SocketAddr> {
    let Some(Data::Value(value)) = &content.data else { return None };
    let Some(MapData::Value(types)) = SetName::Frontends.set(family).data else { return None };
    match value.fields(&types, false)[..] {
        [Field::Addr(address), Field::Port(port)] => Some(SocketAddr::new(address, port)),
        _ => None,
    }
}

/// All sets with our definitions, all chains with our names and hooks, and nothing else.
fn has_our_shape(ruleset: &Ruleset, family: IpFamily) -> bool {
    let settings = Settings {
        family,
        local_pods: Vec::new(),
        service_cidrs: Vec::new(),
        listed_node_ports: false,
        guards_loopback: false,
    };
    let chains = settings.chains();
    let sets =
        SetName::ALL.iter().all(|set| ruleset.sets.get(set.name()).is_some_and(|found| found.set == set.set(family)));
    sets && ruleset.sets.len() == SetName::ALL.len()
        && chains.iter().all(|(chain, _)| ruleset.chains.get(&chain.name).is_some_and(|found| found.chain == *chain))
        && ruleset.chains.len() == chains.len()
}
