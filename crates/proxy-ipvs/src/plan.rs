//! From what is wanted and what is there to steps: only what differs. Pure; executing it is `apply`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipvs::ServerKey;
use proxy::{Refusal, RefusalReason};
use service_model::{Changes, FrontendKey, NodePortAddresses, Protocol, Revision, ServicePort, ServicePortName};

use crate::compile::{Circumstances, compile, needs_mark};
use crate::layout::{SetName, Settings};
use crate::object::{Content, ListMark, Object, frontend_key};
use crate::prepare::Options;
use crate::state::{Observed, Programmed};
use crate::steps::{NftEdit, Phases, Step, show};

/// What a table asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    pub settings: Settings,
    pub node_ports: NodePortAddresses,
    pub options: Arc<Options>,
    pub ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
    pub revision: Revision,
    pub changes: Changes,
    /// What the kernel was seen to refuse.
    pub unusable: Unusable,
}

/// What the kernel was seen to refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unusable {
    pub endpoints: BTreeSet<IpAddr>,
    pub protocols: BTreeSet<u8>,
}

/// Steps, and how the Service ports are written after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsPlan {
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
    /// Everything was looked at: what isn't listed below is nobody's.
    pub(crate) afresh: bool,
    pub(crate) programmed: Vec<(ServicePortName, Option<Programmed>)>,
    pub(crate) owners: Vec<(Object, u32)>,
    /// Servers that were somebody else's and are a Service port's now.
    pub(crate) adopted: BTreeSet<ServerKey>,
    pub(crate) circumstances: Option<Circumstances>,
    pub(crate) revision: Option<Revision>,
    pub(crate) refused: Vec<Refusal>,
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    circumstances: Circumstances,
    /// What Service ports ask for, of the objects that were looked at.
    wanted: BTreeMap<Object, Content>,
    owners: HashMap<Object, u32>,
    numbers: BTreeSet<u32>,
    programmed: Vec<(ServicePortName, Option<Programmed>)>,
    refused: Vec<Refusal>,
}

impl Desired {
    pub fn plan(&self, observed: &Observed) -> IpvsPlan {
        let circumstances = self.circumstances(observed);
        let known = observed.revision.is_some() && observed.sound;
        let incremental = known && observed.circumstances.as_ref() == Some(&circumstances);
        let planner = Planner {
            desired: self,
            observed,
            circumstances,
            wanted: BTreeMap::new(),
            owners: HashMap::new(),
            numbers: BTreeSet::new(),
            programmed: Vec::new(),
            refused: Vec::new(),
        };
        if incremental { planner.plan_changes() } else { planner.plan_everything() }
    }

    fn circumstances(&self, observed: &Observed) -> Circumstances {
        let node_port_addresses = match &self.node_ports {
            NodePortAddresses::AllLocal => observed.node_addresses.clone(),
            // IPVS doesn't send on what comes from a loopback address.
            NodePortAddresses::Only(listed) => {
                listed.iter().copied().filter(|address| !address.is_loopback()).collect()
            }
        };
        Circumstances {
            settings: self.settings.clone(),
            node_port_addresses,
            node_addresses: observed.node_addresses.clone(),
            scheduler: self.options.scheduler.clone(),
            excluded: self.options.exclude_cidrs.clone(),
        }
    }

    /// Which Service ports may differ from how they were written.
    fn names_to_look_at(&self, observed: &Observed) -> BTreeSet<ServicePortName> {
        if observed.revision == self.changes.since && self.unusable == Unusable::default() {
            return self.changes.ports.clone();
        }
        let differs = |name: &&ServicePortName| match (self.ports.get(*name), observed.programmed.get(*name)) {
            (Some(port), Some(programmed)) => !Arc::ptr_eq(port, &programmed.port),
            _ => true,
        };
        self.ports.keys().chain(observed.programmed.keys()).filter(differs).cloned().collect()
    }

    fn refusal(&self, port: &ServicePort) -> Option<RefusalReason> {
        if self.unusable.protocols.contains(&port.protocol.number()) {
            let sctp = port.protocol == Protocol::Sctp;
            return Some(if sctp { RefusalReason::NoSctp } else { RefusalReason::RulesRefused });
        }
        let refused = |address: &IpAddr| self.unusable.endpoints.contains(address);
        let refused = !self.unusable.endpoints.is_empty() && port.endpoints().iter().any(|one| refused(&one.address));
        refused.then_some(RefusalReason::RulesRefused)
    }
}

impl Planner<'_> {
    /// The port as it will be written, unless it can't be.
    fn programme(&mut self, name: &ServicePortName) -> Option<Programmed> {
        let port = self.desired.ports.get(name)?;
        if let Some(reason) = self.desired.refusal(port) {
            self.refused.push(Refusal { port: name.clone(), reason });
            return None;
        }
        let number = if needs_mark(port) {
            let free = (0..=ListMark::LAST).find(|number| !self.numbers.contains(number));
            let Some(number) = self.number_of(name, port).or(free) else {
                self.refused.push(Refusal { port: name.clone(), reason: RefusalReason::TooManyLists });
                return None;
            };
            self.numbers.insert(number);
            Some(number)
        } else {
            None
        };
        Some(Programmed { port: port.clone(), number })
    }

    /// The list's number it has now, if nobody else took it meanwhile.
    fn number_of(&self, name: &ServicePortName, port: &ServicePort) -> Option<u32> {
        if let Some(programmed) = self.observed.programmed.get(name) {
            return programmed.number;
        }
        let marks = port.frontends.iter().filter_map(|frontend| {
            let key = frontend.key(port.protocol);
            let set = if matches!(key, FrontendKey::Address(..)) { SetName::Lists } else { SetName::NodePortLists };
            match self.observed.objects.get(&Object::Element(set, frontend_key(key)))? {
                Content::Element(Some(nft::Data::Value(value))) => {
                    let mark = u32::from_ne_bytes(*value.as_bytes().first_chunk::<4>()?);
                    ListMark::from_number(mark).map(ListMark::list)
                }
                _ => None,
            }
        });
        marks.into_iter().find(|number| !self.numbers.contains(number))
    }

    fn ask_for(&mut self, programmed: &Programmed) {
        let objects = compile(&programmed.port, programmed.number, &self.circumstances);
        // A server of a mark is asked for by each of its port's frontends.
        let mut counted: BTreeSet<Object> = BTreeSet::new();
        for (object, content) in objects {
            if counted.insert(object.clone()) {
                *self.owners.entry(object.clone()).or_default() += 1;
            }
            self.wanted.insert(object, content);
        }
    }

    fn plan_everything(mut self) -> IpvsPlan {
        let desired = self.desired;
        // Those that have a number keep it.
        let (numbered, others): (Vec<_>, Vec<_>) =
            desired.ports.iter().partition(|(name, port)| needs_mark(port) && self.number_of(name, port).is_some());
        for (name, _) in numbered.into_iter().chain(others) {
            let programmed = self.programme(name);
            if let Some(programmed) = &programmed {
                self.ask_for(programmed);
            }
            self.programmed.push((name.clone(), programmed));
        }
        if desired.settings.listed_node_ports {
            for address in &self.circumstances.node_port_addresses {
                let object = Object::single(SetName::NodePortAddresses, *address);
                self.owners.insert(object.clone(), 1);
                self.wanted.insert(object, Content::NOTHING);
            }
        }
        let mut phases = Phases::default();
        self.structure(&mut phases);
        let there = |object: &Object| self.observed.sound || !matches!(object, Object::Element(..));
        for (object, content) in &self.wanted {
            let before = self.observed.objects.get(object).filter(|_| there(object));
            if before != Some(content) {
                phases.put(object, content, before);
            }
        }
        for object in self.observed.objects.keys().filter(|object| there(object)) {
            if !self.wanted.contains_key(object) && !self.is_foreign(object) {
                self.remove(object, &mut phases);
            }
        }
        self.finish(phases, true)
    }

    fn plan_changes(mut self) -> IpvsPlan {
        let names = self.desired.names_to_look_at(self.observed);
        let kept = self.observed.programmed.iter().filter(|(name, _)| !names.contains(*name));
        self.numbers = kept.filter_map(|(_, programmed)| programmed.number).collect();
        let mut touched: BTreeMap<Object, i64> = BTreeMap::new();
        for name in &names {
            if let Some(old) = self.observed.programmed.get(name) {
                let objects = compile(&old.port, old.number, &self.circumstances);
                let objects: BTreeSet<Object> = objects.into_iter().map(|(object, _)| object).collect();
                objects.into_iter().for_each(|object| *touched.entry(object).or_default() -= 1);
            }
        }
        for name in &names {
            let programmed = self.programme(name);
            if let Some(programmed) = &programmed {
                self.ask_for(programmed);
            }
            self.programmed.push((name.clone(), programmed));
        }
        for (object, owners) in std::mem::take(&mut self.owners) {
            *touched.entry(object).or_default() += i64::from(owners);
        }
        let mut phases = Phases::default();
        for (object, difference) in touched {
            let before = self.observed.owners.get(&object).copied().unwrap_or(0);
            let after = u32::try_from(i64::from(before) + difference).unwrap_or(0);
            let found = self.observed.objects.get(&object);
            match self.wanted.get(&object) {
                Some(content) if found != Some(content) => phases.put(&object, content, found),
                None if after == 0 && found.is_some() => self.remove(&object, &mut phases),
                _ => {}
            }
            self.owners.insert(object, after);
        }
        self.finish(phases, false)
    }

    fn structure(&self, phases: &mut Phases) {
        let chains = self.desired.settings.chains();
        if !self.observed.sound {
            phases.structure(NftEdit::Rebuild);
        }
        for (chain, rules) in chains {
            if !self.observed.sound || self.observed.rules.get(&chain.name) != Some(&rules) {
                phases.structure(NftEdit::ReplaceRules { chain: chain.name, rules });
            }
        }
    }

    fn is_foreign(&self, object: &Object) -> bool {
        let asked_for = |server: &ServerKey| self.wanted.contains_key(&Object::Server(*server));
        object.server().is_some_and(|server| self.observed.foreign.contains(server) && !asked_for(server))
    }

    fn remove(&self, object: &Object, phases: &mut Phases) {
        if let Object::Destination(server, at) = object {
            let server_stays =
                self.wanted.contains_key(&Object::Server(*server)) || self.owners_after(&Object::Server(*server)) > 0;
            // They go with their server; those that have connections left wait for their end.
            if !server_stays || self.observed.busy.contains(&(*server, *at)) {
                return;
            }
        }
        phases.remove(object);
    }

    /// Of an object that isn't looked at, those it had.
    fn owners_after(&self, object: &Object) -> u32 {
        self.owners.get(object).or_else(|| self.observed.owners.get(object)).copied().unwrap_or(0)
    }

    fn finish(self, phases: Phases, afresh: bool) -> IpvsPlan {
        let wanted = &self.wanted;
        let foreign = self.observed.foreign.iter().filter(|server| wanted.contains_key(&Object::Server(**server)));
        let adopted = foreign.copied().collect();
        let mut owners: Vec<(Object, u32)> = self.owners.into_iter().collect();
        owners.sort();
        IpvsPlan {
            settings: self.desired.settings.clone(),
            steps: phases.finish(),
            afresh,
            programmed: self.programmed,
            owners,
            adopted,
            circumstances: Some(self.circumstances),
            revision: Some(self.desired.revision),
            refused: self.refused,
        }
    }
}

impl proxy::Plan for IpvsPlan {
    fn steps(&self) -> usize {
        self.steps.len()
    }

    fn first(&self, steps: usize) -> IpvsPlan {
        let whole = steps >= self.steps.len();
        if whole {
            return self.clone();
        }
        IpvsPlan {
            steps: self.steps.iter().take(steps).cloned().collect(),
            afresh: false,
            programmed: Vec::new(),
            owners: Vec::new(),
            adopted: BTreeSet::new(),
            circumstances: None,
            revision: None,
            ..self.clone()
        }
    }

    fn refused(&self) -> &[Refusal] {
        &self.refused
    }
}

impl fmt::Display for IpvsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| show(f, &self.settings, step))
    }
}
