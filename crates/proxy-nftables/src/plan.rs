//! From what is wanted and what is there to a list of edits, in steps that each fit one transaction and in an order in
//! which no packet meets half a Service: endpoints and classes first, then what leads to them, then what nothing leads
//! to any more. Pure; executing it is `apply`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use nft::Transaction;
use proxy::{Refusal, RefusalReason};
use service_model::{Changes, Endpoint, Frontend, Revision, ServicePort, ServicePortName, SourceRanges, Verdict};

use crate::edit::{Edit, transaction};
use crate::layout::{Class, SetName, Settings};
use crate::mark::{ClassId, ListId, Mark, MasqueradeMode};
use crate::state::{Entry, Lists, Observed, Programmed, Scope, Single};

/// Edits per transaction: one takes at most about 150 bytes in a batch, and the kernel's default send buffer is 212,992.
const STEP_EDITS: usize = 1_200;

/// What a table asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    pub settings: Settings,
    pub ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
    pub node_port_addresses: BTreeSet<std::net::IpAddr>,
    pub revision: Revision,
    pub changes: Changes,
}

/// Edits in steps, and how the Service ports are programmed after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftPlan {
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Vec<Edit>>,
    pub(crate) programmed: Vec<(ServicePortName, Option<Programmed>)>,
    /// Ownership of elements, as differences; applies with the last step.
    pub(crate) owners: Vec<(Single, i64)>,
    pub(crate) next_list: u32,
    pub(crate) revision: Option<Revision>,
    pub(crate) refused: Vec<Refusal>,
}

/// Collects edits by when they may happen.
struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    strays: Vec<Edit>,
    structure: Vec<Edit>,
    additions: Vec<Edit>,
    puts: BTreeMap<Entry, Mark>,
    drops: BTreeSet<Entry>,
    removals: Vec<Edit>,
    owners: HashMap<Single, i64>,
    classes: BTreeMap<Class, ClassId>,
    taken: HashSet<ListId>,
    next_list: u32,
    programmed: Vec<(ServicePortName, Option<Programmed>)>,
    refused: Vec<Refusal>,
}

impl Desired {
    pub fn plan(&self, observed: &Observed) -> NftPlan {
        let replaced;
        let base = if !observed.sound {
            replaced = Observed { next_list: observed.next_list, ..Observed::absent(observed.epoch) };
            &replaced
        } else if observed.revision.is_some() && self.rules_differ(observed) {
            // Who owns which element depends on what the rules depend on: count anew.
            replaced = observed.clone().without_owners();
            &replaced
        } else {
            observed
        };
        let mut planner = Planner::new(self, base);
        planner.plan_structure();
        let incremental = base.revision.is_some();
        for name in self.names_to_look_at(base) {
            planner.plan_port(&name);
        }
        planner.plan_node_port_addresses();
        if !incremental {
            planner.sweep();
        }
        planner.finish()
    }

    fn rules_differ(&self, observed: &Observed) -> bool {
        self.settings.chains().iter().any(|(chain, rules)| observed.rules.get(&chain.name) != Some(rules))
    }

    /// Which Service ports may differ from what is programmed.
    fn names_to_look_at(&self, observed: &Observed) -> BTreeSet<ServicePortName> {
        if observed.revision.is_some() && observed.revision == self.changes.since {
            return self.changes.ports.clone();
        }
        let differs = |name: &&ServicePortName| match (self.ports.get(*name), observed.programmed.get(*name)) {
            (Some(port), Some(programmed)) => !Arc::ptr_eq(port, &programmed.port),
            _ => true,
        };
        self.ports.keys().chain(observed.programmed.keys()).filter(differs).cloned().collect()
    }
}

impl<'a> Planner<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed) -> Planner<'a> {
        Planner {
            desired,
            observed,
            strays: Vec::new(),
            structure: Vec::new(),
            additions: Vec::new(),
            puts: BTreeMap::new(),
            drops: BTreeSet::new(),
            removals: Vec::new(),
            owners: HashMap::new(),
            classes: observed.classes.iter().map(|(id, class)| (*class, *id)).collect(),
            taken: HashSet::new(),
            next_list: observed.next_list,
            programmed: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn plan_structure(&mut self) {
        if !self.observed.sound {
            self.structure.push(Edit::Rebuild);
            return;
        }
        for (chain, rules) in self.desired.settings.chains() {
            if self.observed.rules.get(&chain.name) != Some(&rules) {
                self.structure.push(Edit::ReplaceRules { chain: chain.name, rules });
            }
        }
    }

    fn plan_port(&mut self, name: &ServicePortName) {
        let old = self.observed.programmed.get(name);
        let new = self.desired.ports.get(name);
        if let Some(old) = old {
            let (entries, singles) = compile(old, &self.classes, &self.desired.settings);
            self.drops.extend(entries.keys());
            singles.into_iter().for_each(|single| *self.owners.entry(single).or_default() -= 1);
        }
        let (additions, removals) = (self.additions.len(), self.removals.len());
        let kept = new.and_then(|port| match self.plan_lists(port, old) {
            Ok(programmed) => Some(programmed),
            Err(reason) => {
                self.additions.truncate(additions);
                self.removals.truncate(removals);
                self.refused.push(Refusal { port: name.clone(), reason });
                None
            }
        });
        let lists: BTreeSet<ListId> = kept.iter().flat_map(|programmed| programmed.lists.each()).collect();
        for list in old.into_iter().flat_map(|old| old.lists.each()) {
            let sticks = kept.as_ref().is_some_and(|new| new.port.affinity.is_some());
            if old.is_some_and(|old| old.port.affinity.is_some()) {
                self.forget(list, if sticks && lists.contains(&list) { kept.as_ref() } else { None });
            }
            if !lists.contains(&list) {
                self.drop_list(list);
            }
        }
        if let Some(programmed) = &kept {
            let (entries, singles) = compile(programmed, &self.classes, &self.desired.settings);
            self.puts.extend(entries);
            singles.into_iter().for_each(|single| *self.owners.entry(single).or_default() += 1);
        }
        if kept.is_some() || old.is_some() {
            self.programmed.push((name.clone(), kept));
        }
    }

    /// Gives each different endpoint list of a port a number and brings its slots up to date.
    fn plan_lists(&mut self, port: &Arc<ServicePort>, old: Option<&Programmed>) -> Result<Programmed, RefusalReason> {
        let verdicts = [Some(&port.internal), Some(&port.external), port.local_traffic.as_ref()];
        let mut numbered: Vec<(&Verdict, ListId)> = Vec::new();
        let mut lists = [None; 3];
        for (role, verdict) in verdicts.into_iter().enumerate() {
            let Some(verdict @ Verdict::Forward(endpoints)) = verdict else { continue };
            if role > 0 && !port.frontends.iter().any(|frontend| !frontend.is_internal()) {
                continue;
            }
            let shared = numbered.iter().find(|(known, _)| *known == verdict).map(|(_, list)| *list);
            let list = match shared {
                Some(list) => list,
                None => {
                    let list = self.number_list(port, role, old, &numbered)?;
                    self.class(class_of(port, endpoints))?;
                    self.fill_list(list, endpoints.iter().map(|endpoint| endpoint.socket()));
                    list
                }
            };
            numbered.push((verdict, list));
            lists[role] = Some(list);
        }
        let [internal, external, local] = lists;
        Ok(Programmed { port: port.clone(), lists: Lists { internal, external, local } })
    }

    /// The number the list has, or else had in the kernel, or else an unused one.
    fn number_list(
        &mut self,
        port: &ServicePort,
        role: usize,
        old: Option<&Programmed>,
        numbered: &[(&Verdict, ListId)],
    ) -> Result<ListId, RefusalReason> {
        let free = |list: &ListId| numbered.iter().all(|(_, used)| used != list);
        let known = match old {
            Some(old) => [old.lists.internal, old.lists.external, old.lists.local][role].filter(free),
            None => self.adopt(port, role).filter(free).filter(|list| !self.taken.contains(list)),
        };
        let list = match known {
            Some(list) => list,
            None => self.unused_list().ok_or(RefusalReason::TooManyLists)?,
        };
        self.taken.insert(list);
        Ok(list)
    }

    /// The list a frontend of this role leads to in the kernel, left there by an earlier life of ours.
    fn adopt(&self, port: &ServicePort, role: usize) -> Option<ListId> {
        if self.observed.revision.is_some() {
            return None;
        }
        let scope = if role == 2 { Scope::Here } else { Scope::Everybody };
        let frontends = port.frontends.iter().filter(|frontend| frontend.is_internal() == (role == 0));
        let marks = frontends.filter_map(|frontend| self.observed.entries.get(&(scope, frontend.key(port.protocol))));
        let list = marks.map(|mark| mark.list()).find(|list| list.number() != 0)?;
        self.observed.lists.contains_key(&list).then_some(list)
    }

    fn unused_list(&mut self) -> Option<ListId> {
        for _ in 0..=ListId::MASK {
            let number = if self.next_list > ListId::MASK || self.next_list == 0 { 1 } else { self.next_list };
            self.next_list = number + 1;
            let list = ListId::new(number)?;
            if !self.taken.contains(&list) && !self.observed.lists.contains_key(&list) {
                return Some(list);
            }
        }
        None
    }

    fn class(&mut self, class: Class) -> Result<ClassId, RefusalReason> {
        if let Some(id) = self.classes.get(&class) {
            return Ok(*id);
        }
        let used: BTreeSet<u16> = self.classes.values().map(|id| id.number()).collect();
        let free = (ClassId::FIRST..=u16::MAX).find(|number| !used.contains(number)).and_then(ClassId::new);
        let id = free.ok_or(RefusalReason::TooManyClasses)?;
        self.structure.push(Edit::AddClass { id, class });
        self.classes.insert(class, id);
        Ok(id)
    }

    /// Endpoints keep their slots; what is new goes where something went, and what is left fills the holes.
    fn fill_list(&mut self, list: ListId, wanted: impl Iterator<Item = SocketAddr>) {
        let wanted: Vec<SocketAddr> = wanted.collect();
        let empty = Vec::new();
        let slots = self.observed.lists.get(&list).unwrap_or(&empty);
        let mut missing: BTreeSet<SocketAddr> = wanted.iter().copied().collect();
        let staying: Vec<bool> = (0..wanted.len())
            .map(|slot| slots.get(slot).copied().flatten().is_some_and(|e| missing.remove(&e)))
            .collect();
        let mut missing = missing.into_iter();
        for (slot, stays) in staying.into_iter().enumerate() {
            let Some(endpoint) = (!stays).then(|| missing.next()).flatten() else { continue };
            let replaces = slots.get(slot).copied().flatten();
            self.additions.push(Edit::PutSlot { list, slot: number(slot), endpoint, replaces });
        }
        for (slot, _) in slots.iter().enumerate().skip(wanted.len()).filter(|(_, slot)| slot.is_some()) {
            self.removals.push(Edit::DropSlot { list, slot: number(slot) });
        }
    }

    /// What the affinity map holds for endpoints that leave a list must go with them: all of them, if `new` has no use
    /// for the list.
    fn forget(&mut self, list: ListId, new: Option<&Programmed>) {
        let Some(slots) = self.observed.lists.get(&list) else { return };
        let verdicts = new.map(|new| {
            [
                (new.lists.internal, Some(&new.port.internal)),
                (new.lists.external, Some(&new.port.external)),
                (new.lists.local, new.port.local_traffic.as_ref()),
            ]
        });
        let verdict = verdicts.into_iter().flatten().find(|(known, _)| *known == Some(list)).and_then(|(_, v)| v);
        let stays: BTreeSet<SocketAddr> =
            verdict.into_iter().flat_map(Verdict::endpoints).map(|endpoint| endpoint.socket()).collect();
        let gone: BTreeSet<SocketAddr> =
            slots.iter().flatten().filter(|endpoint| !stays.contains(endpoint)).copied().collect();
        if !gone.is_empty() {
            self.removals.push(Edit::Forget { list, gone });
        }
    }

    fn drop_list(&mut self, list: ListId) {
        let Some(slots) = self.observed.lists.get(&list) else { return };
        for (slot, _) in slots.iter().enumerate().filter(|(_, slot)| slot.is_some()) {
            self.removals.push(Edit::DropSlot { list, slot: number(slot) });
        }
    }

    fn plan_node_port_addresses(&mut self) {
        for address in &self.desired.node_port_addresses {
            let single = Single::NodePortAddress(*address);
            if self.observed.singles.get(&single).is_none_or(|owners| *owners == 0) {
                *self.owners.entry(single).or_default() += 1;
            }
        }
        for (single, owners) in &self.observed.singles {
            if let Single::NodePortAddress(address) = single
                && *owners > 0
                && !self.desired.node_port_addresses.contains(address)
            {
                *self.owners.entry(*single).or_default() -= 1;
            }
        }
    }

    /// After reading the kernel: whatever no Service port asked for goes.
    fn sweep(&mut self) {
        let drops = self.observed.entries.keys().filter(|entry| !self.puts.contains_key(*entry));
        self.drops.extend(drops.copied());
        let mut lists: Vec<ListId> =
            self.observed.lists.keys().filter(|list| !self.taken.contains(*list)).copied().collect();
        lists.sort();
        lists.into_iter().for_each(|list| self.drop_list(list));
        for single in self.observed.singles.keys() {
            self.owners.entry(*single).or_default();
        }
        for (set, key) in &self.observed.strays {
            self.strays.push(Edit::DropStray { set: *set, key: key.clone() });
        }
        self.sweep_affinity();
    }

    /// Clients remembered for an endpoint that their list does not have (any more) are forgotten.
    fn sweep_affinity(&mut self) {
        let mut alive: HashMap<(ListId, u32), SocketAddr> = HashMap::new();
        for (list, slots) in &self.observed.lists {
            let slots = slots.iter().enumerate();
            alive.extend(slots.filter_map(|(slot, endpoint)| Some(((*list, number(slot)), (*endpoint)?))));
        }
        for edit in self.additions.iter().chain(&self.removals) {
            match edit {
                Edit::PutSlot { list, slot, endpoint, .. } => alive.insert((*list, *slot), *endpoint),
                Edit::DropSlot { list, slot } => alive.remove(&(*list, *slot)),
                _ => None,
            };
        }
        let alive: HashSet<(ListId, SocketAddr)> = alive.into_iter().map(|((list, _), e)| (list, e)).collect();
        for (list, endpoint, key) in &self.observed.remembered {
            if !alive.contains(&(*list, *endpoint)) {
                self.removals.push(Edit::DropStray { set: SetName::Affinity, key: key.clone() });
            }
        }
    }

    fn finish(mut self) -> NftPlan {
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut owners: Vec<(Single, i64)> = self.owners.drain().collect();
        owners.sort();
        for (single, difference) in &owners {
            let found = self.observed.singles.get(single).copied();
            let needed = i64::from(found.unwrap_or(0)) + difference > 0;
            match (found.is_some(), needed) {
                (false, true) => before.push(Edit::Add(*single)),
                (true, false) => after.push(Edit::Remove(*single)),
                _ => {}
            }
        }
        owners.retain(|(_, difference)| *difference != 0);
        let mut switch = Vec::new();
        for (entry, mark) in &self.puts {
            let replaces = self.observed.entries.get(entry).copied();
            if replaces != Some(*mark) {
                switch.push(Edit::PutEntry { entry: *entry, mark: *mark, replaces });
            }
        }
        let gone = self.drops.iter().filter(|entry| !self.puts.contains_key(*entry));
        let gone = gone.filter(|entry| self.observed.entries.contains_key(*entry));
        switch.extend(gone.map(|entry| Edit::DropEntry { entry: *entry }));
        // A source range has to be in force before its frontend and to outlive it.
        let phases = [self.strays, self.structure, self.additions, before, switch, after, self.removals];
        NftPlan {
            settings: self.desired.settings.clone(),
            steps: steps(phases),
            programmed: self.programmed,
            owners,
            next_list: self.next_list,
            revision: Some(self.desired.revision),
            refused: self.refused,
        }
    }
}

/// Packs phases into as few transactions as their order and size allow. What looks at the kernel comes in a step of its
/// own, at the end.
fn steps(phases: [Vec<Edit>; 7]) -> Vec<Vec<Edit>> {
    let (looking, writing): (Vec<Edit>, Vec<Edit>) =
        phases.into_iter().flatten().partition(|edit| matches!(edit, Edit::Forget { .. }));
    let mut steps: Vec<Vec<Edit>> = Vec::new();
    let mut step = Vec::new();
    let mut weight = 0;
    for edit in writing {
        if weight + edit.weight() > STEP_EDITS && !step.is_empty() {
            steps.push(std::mem::take(&mut step));
            weight = 0;
        }
        weight += edit.weight();
        step.push(edit);
    }
    steps.extend([step, looking].into_iter().filter(|step| !step.is_empty()));
    steps
}

/// What a programmed port has in the kernel besides its lists.
fn compile(
    programmed: &Programmed,
    classes: &BTreeMap<Class, ClassId>,
    settings: &Settings,
) -> (BTreeMap<Entry, Mark>, BTreeSet<Single>) {
    let port = &programmed.port;
    let mut entries = BTreeMap::new();
    let mut singles = BTreeSet::new();
    for frontend in &port.frontends {
        let key = frontend.key(port.protocol);
        let (verdict, here) = (port.verdict(frontend), port.local_verdict(frontend));
        let masquerade = port.masquerade_at(frontend);
        let internal = frontend.is_internal();
        let list = if internal { programmed.lists.internal } else { programmed.lists.external };
        let lists = (list, if internal || port.local_traffic.is_none() { list } else { programmed.lists.local });
        let mark = |mode, verdict: &Verdict, list: Option<ListId>| -> Option<Mark> {
            Some(match verdict {
                Verdict::Reject => Mark::new(mode, ClassId::REJECT, ListId::default()),
                Verdict::Drop => Mark::new(mode, ClassId::DROP, ListId::default()),
                Verdict::Forward(endpoints) => Mark::new(mode, *classes.get(&class_of(port, endpoints))?, list?),
            })
        };
        match MasqueradeMode::for_everybody(masquerade) {
            Some(mode) if verdict == here => {
                entries.extend(mark(mode, verdict, lists.0).map(|mark| ((Scope::Everybody, key), mark)))
            }
            _ => {
                let others = mark(MasqueradeMode::for_others(masquerade), verdict, lists.0);
                entries.extend(others.map(|mark| ((Scope::Everybody, key), mark)));
                let here = mark(MasqueradeMode::for_here(masquerade), here, lists.1);
                entries.extend(here.map(|mark| ((Scope::Here, key), mark)));
            }
        }
        singles.extend(frontend_singles(port, frontend));
    }
    // Only an endpoint on this node can meet itself through it, unless nobody says where it is.
    let meets_itself = |local: bool, known: bool| local || !known || settings.local_pods.is_empty();
    let endpoints = port.endpoints().into_iter().filter(|e| meets_itself(e.local, e.node.is_some()));
    singles.extend(endpoints.map(|endpoint| Single::Hairpin(endpoint.address)));
    (entries, singles)
}

fn class_of(port: &ServicePort, endpoints: &[Endpoint]) -> Class {
    Class {
        endpoints: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
        affinity_seconds: port.affinity.map(|affinity| affinity.timeout_seconds),
    }
}

fn frontend_singles(port: &ServicePort, frontend: &Frontend) -> Vec<Single> {
    let key = frontend.key(port.protocol);
    match (frontend, &port.source_ranges) {
        (Frontend::ClusterIp { address, .. }, _) => vec![Single::ClusterIp(*address)],
        (Frontend::LoadBalancerIp { address, .. }, Some(SourceRanges { allowed, virtual_address_too })) => {
            let mut ranges = allowed.clone();
            if *virtual_address_too {
                ranges.push((*address).into());
            }
            // A set of intervals takes none inside another.
            let ranges = ipnet::IpNet::aggregate(&ranges);
            let mut singles = vec![Single::Restricted(key)];
            singles.extend(ranges.into_iter().map(|range| Single::Allowed(key, range)));
            singles
        }
        _ => Vec::new(),
    }
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

impl NftPlan {
    /// The transactions, as far as they can be known without looking at the kernel again.
    pub fn transactions(&self) -> impl Iterator<Item = Transaction> {
        self.steps.iter().map(|step| transaction(&self.settings, step))
    }
}

impl proxy::Plan for NftPlan {
    fn steps(&self) -> usize {
        self.steps.len()
    }

    fn first(&self, steps: usize) -> NftPlan {
        let whole = steps >= self.steps.len();
        NftPlan {
            steps: self.steps.iter().take(steps).cloned().collect(),
            programmed: if whole { self.programmed.clone() } else { Vec::new() },
            owners: if whole { self.owners.clone() } else { Vec::new() },
            revision: self.revision.filter(|_| whole),
            ..self.clone()
        }
    }

    fn refused(&self) -> &[Refusal] {
        &self.refused
    }
}

impl fmt::Display for NftPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for transaction in self.transactions().filter(|transaction| !transaction.is_empty()) {
            writeln!(f, "{transaction}")?;
        }
        let forgotten = self.steps.iter().flatten().filter_map(|edit| match edit {
            Edit::Forget { list, gone } => Some((list, gone)),
            _ => None,
        });
        for (list, gone) in forgotten {
            writeln!(f, "# then delete from the affinity map what leads list {list} to {gone:?}")?;
        }
        Ok(())
    }
}
