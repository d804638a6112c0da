//! What is in the kernel's table, in our terms: read from a dump, or carried forward by the edits that were committed.
//! Elements that make no sense are kept aside for removal; a table of the wrong shape is only good for replacing. Not
//! responsible for what ought to be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use nft::{ChainState, Content, Data, Field, Key, Rule, Ruleset, Value, Verdict};
use service_model::{Endpoint, FrontendKey, IpFamily, Port, Protocol, Revision, ServicePort, ServicePortName};

use crate::edit::Edit;
use crate::layout::{Class, SetName, Settings};
use crate::mark::{ClassId, ListId, Mark};
use crate::plan::NftPlan;
use crate::slots::Slots;

/// Who meets an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Everybody,
    /// This node and its pods.
    Here,
}

/// Where an entry for a frontend stands.
pub type Entry = (Scope, FrontendKey);

/// An element that is just there or not; several Services may need the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Single {
    ClusterIp(IpAddr),
    Hairpin(IpAddr),
    Restricted(FrontendKey),
    Allowed(FrontendKey, IpNet),
    NodePortAddress(IpAddr),
}

impl Single {
    /// Whether it is a source range of a frontend that another one there overlaps.
    pub fn overlaps_one_of(&self, others: &BTreeSet<Single>) -> bool {
        let Single::Allowed(frontend, range) = self else { return false };
        let at_frontend = others.range(Single::Allowed(*frontend, IpNet::default())..);
        at_frontend
            .map_while(|other| other.range_of(frontend))
            .any(|other| other != range && (other.contains(range) || range.contains(other)))
    }

    fn range_of(&self, frontend: &FrontendKey) -> Option<&IpNet> {
        match self {
            Single::Allowed(of, range) if of == frontend => Some(range),
            _ => None,
        }
    }
}

/// Where a slot leads: what a SocketAddr says, in 20 bytes instead of 32. There are as many as endpoints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub address: IpAddr,
    pub port: u16,
}

/// How a Service port was programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programmed {
    pub port: Arc<ServicePort>,
    pub lists: Lists,
}

/// The endpoint lists of a Service port's verdicts; verdicts with the same endpoints share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub internal: Option<ListId>,
    pub external: Option<ListId>,
    pub local: Option<ListId>,
}

/// An element by set and key.
pub type Stray = (SetName, Key);

/// Our table as far as we know.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The table is there with the right sets and chains. If not, nothing else in here counts.
    pub sound: bool,
    /// Rules of the chains that are always there.
    pub rules: BTreeMap<String, Vec<Rule>>,
    pub classes: BTreeMap<ClassId, Class>,
    pub entries: HashMap<Entry, Mark>,
    pub lists: HashMap<ListId, Slots>,
    /// How many Service ports need each; 0 for what was found and is not known to be needed.
    pub singles: HashMap<Single, u32>,
    pub programmed: BTreeMap<ServicePortName, Programmed>,
    pub strays: BTreeSet<Stray>,
    /// Found in the affinity map: what a client's next connection would go to.
    pub remembered: Vec<(ListId, Target, Key)>,
    /// Of the table that was programmed last; none right after reading the kernel.
    pub revision: Option<Revision>,
    /// Counts the foreign writes seen when this was read.
    pub epoch: nft::Epoch,
    /// Where to look for an unused list number next, so that one is not used again at once.
    pub next_list: u32,
}

impl Observed {
    /// No table, or one that has to be replaced.
    pub fn absent(epoch: nft::Epoch) -> Observed {
        Observed { epoch, next_list: 1, ..Observed::default() }
    }

    pub fn read(ruleset: &Ruleset, family: IpFamily, epoch: nft::Epoch) -> Observed {
        if !has_our_shape(ruleset, family) {
            return Observed::absent(epoch);
        }
        let mut observed = Observed { sound: true, ..Observed::absent(epoch) };
        for (name, ChainState { rules, .. }) in &ruleset.chains {
            if Class::from_chain(name).is_none() && Class::recorded_by(name).is_none() {
                observed.rules.insert(name.clone(), rules.clone());
            }
        }
        let elements = |set: SetName| ruleset.sets.get(set.name()).into_iter().flat_map(|state| state.elements.iter());
        observed.read_classes(elements(SetName::Classes), elements(SetName::Sticky), ruleset, family);
        for set in SetName::ALL {
            let types = set.set(family).key;
            for (key, content) in elements(set) {
                let fields = key.start.fields(&types, false);
                if observed.read_element(set, key, &fields, content, family).is_none() {
                    observed.strays.insert((set, key.clone()));
                }
            }
        }
        observed
    }

    /// The same elements, as if they had just been read.
    pub fn without_owners(mut self) -> Observed {
        self.singles.values_mut().for_each(|owners| *owners = 0);
        self.programmed.clear();
        self.revision = None;
        self
    }

    /// Takes in a committed edit.
    pub fn take(&mut self, edit: &Edit, settings: &Settings) {
        match edit {
            Edit::Rebuild => {
                *self = Observed { sound: true, next_list: self.next_list, ..Observed::absent(self.epoch) };
                let chains = settings.chains_before_services().into_iter();
                self.rules = chains.map(|(chain, rules)| (chain.name, rules)).collect();
            }
            Edit::ReplaceRules { chain, rules } => {
                self.rules.insert(chain.clone(), rules.clone());
            }
            Edit::AddClass { id, class } => {
                self.classes.insert(*id, *class);
            }
            Edit::Fill { list, endpoints, first, end } => {
                let slots = self.lists.entry(*list).or_default();
                if (*first, *end as usize) == (0, endpoints.len()) {
                    *slots = Slots::Of(endpoints.clone());
                    return;
                }
                for slot in *first as usize..*end as usize {
                    slots.put(slot, Target::from(&endpoints[slot]));
                }
            }
            Edit::PutSlot { list, slot, endpoint, .. } => {
                self.lists.entry(*list).or_default().put(*slot as usize, *endpoint);
            }
            Edit::DropSlot { list, slot } => self.drop_slot(*list, *slot as usize),
            Edit::PutEntry { entry, mark, .. } => {
                self.entries.insert(*entry, *mark);
            }
            Edit::DropEntry { entry } => {
                self.entries.remove(entry);
            }
            Edit::Add(single) => {
                self.singles.entry(*single).or_default();
            }
            Edit::Remove(single) => {
                self.singles.remove(single);
            }
            Edit::DropStray { set, key } => {
                self.strays.remove(&(*set, key.clone()));
            }
            Edit::Forget { .. } => {}
        }
    }

    fn drop_slot(&mut self, list: ListId, slot: usize) {
        let Some(slots) = self.lists.get_mut(&list) else { return };
        slots.drop(slot);
        if slots.len() == 0 {
            self.lists.remove(&list);
        }
    }

    /// Takes in that a whole plan is done.
    pub fn complete(&mut self, plan: &NftPlan) {
        for (single, difference) in &plan.owners {
            if let Some(owners) = self.singles.get_mut(single) {
                *owners = u32::try_from(i64::from(*owners) + difference).unwrap_or(0);
            }
        }
        for (name, programmed) in &plan.programmed {
            match programmed {
                Some(programmed) => self.programmed.insert(name.clone(), programmed.clone()),
                None => self.programmed.remove(name),
            };
        }
        self.remembered.clear();
        self.next_list = plan.next_list;
        self.revision = plan.revision;
    }

    /// Takes over classes whose chain, rules and recording are as they should be; others are strays.
    fn read_classes<'a>(
        &mut self,
        classes: impl Iterator<Item = (&'a Key, &'a Content)>,
        sticky: impl Iterator<Item = (&'a Key, &'a Content)>,
        ruleset: &Ruleset,
        family: IpFamily,
    ) {
        let records: BTreeMap<&Key, &Content> = sticky.collect();
        let rules = |chain: &str| ruleset.chains.get(chain).map(|state| state.rules.as_slice());
        for (key, content) in classes {
            let Some((id, Verdict::Goto(chain))) = class_id(key).zip(verdict(content)) else { continue };
            let Some(class) = Class::from_chain(chain) else { continue };
            let recorded = match (class.record_chain(), records.get(key).map(|content| verdict(content))) {
                (None, None) => true,
                (Some(record), Some(Some(Verdict::Jump(found)))) => {
                    record == *found && rules(&record) == Some(class.record_rules(family).as_slice())
                }
                _ => false,
            };
            if recorded && rules(chain) == Some(class.rules(family).as_slice()) && id.number() >= ClassId::FIRST {
                self.classes.insert(id, class);
            }
        }
    }

    /// `None` if the element is none that we would write.
    fn read_element(
        &mut self,
        set: SetName,
        key: &Key,
        fields: &[Field],
        content: &Content,
        family: IpFamily,
    ) -> Option<()> {
        match (set, fields) {
            (SetName::Frontends | SetName::LocalFrontends, fields) => {
                let scope = if set == SetName::Frontends { Scope::Everybody } else { Scope::Here };
                self.entries.insert((scope, frontend(fields)?), Mark::from_number(mark(content)?));
            }
            (SetName::NodePorts | SetName::LocalNodePorts, &[Field::Proto(proto), Field::Port(port)]) => {
                let scope = if set == SetName::NodePorts { Scope::Everybody } else { Scope::Here };
                let key = FrontendKey::NodePort(protocol(proto)?, Port::new(port)?);
                self.entries.insert((scope, key), Mark::from_number(mark(content)?));
            }
            (SetName::Endpoints, &[Field::Mark(list), Field::Mark(slot)]) => {
                let slots = self.lists.entry(ListId::new(list)?).or_default();
                // A slot far out can only be garbage; keeping it would mean a list that long.
                let slot = usize::try_from(slot).ok().filter(|slot| *slot <= slots.len() + (1 << 16))?;
                slots.put(slot, target(content, family)?);
            }
            (SetName::ClusterIps, &[Field::Addr(address)]) => {
                self.singles.insert(Single::ClusterIp(address), 0);
            }
            (SetName::NodePortAddresses, &[Field::Addr(address)]) => {
                self.singles.insert(Single::NodePortAddress(address), 0);
            }
            (SetName::Restricted, fields) => {
                self.singles.insert(Single::Restricted(frontend(fields)?), 0);
            }
            (SetName::AllowedSources, [address, proto, port, Field::Addr(first)]) => {
                let last = key.last().fields(&set.set(family).key, false);
                let Some(Field::Addr(last)) = last.last() else { return None };
                let frontend = frontend(&[address.clone(), proto.clone(), port.clone()])?;
                self.singles.insert(Single::Allowed(frontend, network(*first, *last)?), 0);
            }
            (SetName::Hairpin, &[Field::Addr(source), Field::Addr(destination)]) if source == destination => {
                self.singles.insert(Single::Hairpin(source), 0);
            }
            (SetName::Affinity, &[Field::Mark(list), Field::Addr(_)]) => {
                self.remembered.push((ListId::new(list)?, target(content, family)?, key.clone()));
            }
            (SetName::SavedMarks, _) => {}
            (SetName::Classes, _) => {
                let id = class_id(key)?;
                let expected = match id {
                    ClassId::REJECT => Verdict::Goto(crate::layout::REJECT.to_owned()),
                    ClassId::DROP => Verdict::Goto(crate::layout::DROP.to_owned()),
                    id => Verdict::Goto(self.classes.get(&id)?.chain()),
                };
                (*verdict(content)? == expected).then_some(())?;
            }
            (SetName::Sticky, _) => {
                self.classes.get(&class_id(key)?)?.affinity_seconds?;
            }
            _ => return None,
        }
        Some(())
    }
}

impl From<&Endpoint> for Target {
    fn from(endpoint: &Endpoint) -> Self {
        Target { address: endpoint.address, port: endpoint.port.number() }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl Lists {
    pub fn each(self) -> impl Iterator<Item = ListId> {
        let lists: BTreeSet<ListId> = [self.internal, self.external, self.local].into_iter().flatten().collect();
        lists.into_iter()
    }
}

impl Single {
    /// The element, as set and key.
    pub fn element(&self) -> Stray {
        match *self {
            Single::ClusterIp(address) => (SetName::ClusterIps, Value::addr(address).into()),
            Single::NodePortAddress(address) => (SetName::NodePortAddresses, Value::addr(address).into()),
            Single::Hairpin(address) => (SetName::Hairpin, Value::concat().addr(address).addr(address).value().into()),
            Single::Restricted(key) => (SetName::Restricted, entry_key(key)),
            Single::Allowed(key, net) => {
                let bound = |address: IpAddr| {
                    let mut bytes = entry_key(key).start.as_bytes().to_vec();
                    bytes.extend_from_slice(Value::addr(address).as_bytes());
                    Value::new(bytes)
                };
                (SetName::AllowedSources, Key::range(bound(net.network()), bound(net.broadcast())))
            }
        }
    }
}

/// The key of a frontend's entry.
pub fn entry_key(key: FrontendKey) -> Key {
    match key {
        FrontendKey::Address(address, protocol, port) => {
            Value::concat().addr(address).proto(protocol.number()).port(port.number()).value().into()
        }
        FrontendKey::NodePort(protocol, port) => {
            Value::concat().proto(protocol.number()).port(port.number()).value().into()
        }
    }
}

pub fn entry_set((scope, key): Entry) -> SetName {
    match (scope, key) {
        (Scope::Everybody, FrontendKey::Address(..)) => SetName::Frontends,
        (Scope::Here, FrontendKey::Address(..)) => SetName::LocalFrontends,
        (Scope::Everybody, FrontendKey::NodePort(..)) => SetName::NodePorts,
        (Scope::Here, FrontendKey::NodePort(..)) => SetName::LocalNodePorts,
    }
}

/// All sets with our definitions, all chains with our names and hooks, and the two classes that are always there.
fn has_our_shape(ruleset: &Ruleset, family: IpFamily) -> bool {
    let settings = Settings::plain(family);
    let fixed: BTreeMap<String, _> =
        settings.chains().into_iter().map(|(chain, _)| (chain.name.clone(), chain)).collect();
    let sets =
        SetName::ALL.iter().all(|set| ruleset.sets.get(set.name()).is_some_and(|found| found.set == set.set(family)));
    let chains = fixed.iter().all(|(name, chain)| ruleset.chains.get(name).is_some_and(|found| found.chain == *chain));
    let no_others = ruleset.chains.iter().all(|(name, found)| {
        let of_class = Class::from_chain(name).is_some() || Class::recorded_by(name).is_some();
        fixed.contains_key(name) || (of_class && found.chain.base.is_none())
    });
    let constant = |id: ClassId| {
        let key = Key::from(Value::mark(id.bits()));
        ruleset.sets.get(SetName::Classes.name()).is_some_and(|found| found.elements.contains_key(&key))
    };
    sets && chains
        && no_others
        && ruleset.sets.len() == SetName::ALL.len()
        && constant(ClassId::REJECT)
        && constant(ClassId::DROP)
}

fn class_id(key: &Key) -> Option<ClassId> {
    let bits = key.start.as_bytes().first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))?;
    ClassId::from_bits(bits)
}

fn verdict(content: &Content) -> Option<&Verdict> {
    match &content.data {
        Some(Data::Verdict(verdict)) => Some(verdict),
        _ => None,
    }
}

fn mark(content: &Content) -> Option<u32> {
    match &content.data {
        Some(Data::Value(value)) => value.as_bytes().first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes)),
        _ => None,
    }
}

fn target(content: &Content, family: IpFamily) -> Option<Target> {
    let Some(Data::Value(value)) = &content.data else { return None };
    let Some(nft::MapData::Value(types)) = SetName::Endpoints.set(family).data else { return None };
    match value.fields(&types, false)[..] {
        [Field::Addr(address), Field::Port(port)] => Some(Target { address, port }),
        _ => None,
    }
}

fn frontend(fields: &[Field]) -> Option<FrontendKey> {
    match *fields {
        [Field::Addr(address), Field::Proto(proto), Field::Port(port)] => {
            Some(FrontendKey::Address(address, protocol(proto)?, Port::new(port)?))
        }
        _ => None,
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == number)
}

/// The network of all addresses between two; `None` if it is none.
fn network(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let longest = if first.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|prefix| IpNet::new(first, prefix).ok())
        .find(|net| net.network() == first && net.broadcast() == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_overlaps_others_of_its_frontend_alone() {
        let frontend = |last: u8| FrontendKey::Address([192, 0, 2, last].into(), Protocol::Tcp, Port::new(80).unwrap());
        let range = |last: u8, text: &str| Single::Allowed(frontend(last), text.parse().unwrap());
        let coming: BTreeSet<Single> =
            [range(1, "10.1.0.0/16"), range(1, "172.16.0.0/12"), range(2, "0.0.0.0/0")].into();
        for (gone, overlaps) in [
            (range(1, "10.0.0.0/8"), true),
            (range(1, "172.16.5.0/24"), true),
            (range(1, "10.2.0.0/16"), false),
            (range(3, "10.1.0.0/16"), false),
            (Single::Restricted(frontend(1)), false),
        ] {
            assert_eq!(gone.overlaps_one_of(&coming), overlaps, "{gone:?}");
        }
    }
}
