//! From what is wanted and what is there to a list of edits, in steps that each fit one transaction and in an order in
//! which no packet meets half a Service: endpoints and classes first, then what leads to them, then what nothing leads
//! to any more. Pure; executing it is `apply`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use nft::Transaction;
use proxy::Refusal;
use service_model::{Changes, Revision, ServicePort, ServicePortName};

use crate::edit::{Edit, transaction};
use crate::layout::{Class, NO_FRONTEND, SetName, Settings};
use crate::mark::{ClassId, ListId, Mark};
use crate::state::{Entry, Observed, Programmed, Single, Target};

mod compile;
mod lists;
mod steps;

use compile::compile;
use lists::number;
use steps::{Edits, steps};

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
    strays: Edits,
    structure: Edits,
    refusing: Edits,
    additions: Edits,
    puts: BTreeMap<Entry, Mark>,
    drops: BTreeSet<Entry>,
    removals: Edits,
    /// What has to look at the kernel first.
    looking: Vec<Edit>,
    /// Of the port being planned; dropped if it is refused.
    filling: Filling,
    owners: HashMap<Single, i64>,
    classes: BTreeMap<Class, ClassId>,
    taken: HashSet<ListId>,
    next_list: u32,
    programmed: Vec<(ServicePortName, Option<Programmed>)>,
    refused: Vec<Refusal>,
}

/// What brings one port's lists up to date.
#[derive(Default)]
struct Filling {
    additions: Vec<Edit>,
    removals: Vec<Edit>,
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
            strays: Edits::default(),
            structure: Edits::default(),
            refusing: Edits::default(),
            additions: Edits::default(),
            puts: BTreeMap::new(),
            drops: BTreeSet::new(),
            removals: Edits::default(),
            looking: Vec::new(),
            filling: Filling::default(),
            owners: HashMap::new(),
            classes: observed.classes.iter().map(|(id, class)| (*class, *id)).collect(),
            taken: HashSet::new(),
            next_list: observed.next_list,
            programmed: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn plan_structure(&mut self) {
        let sound = self.observed.sound;
        if !sound {
            self.structure.push(Edit::Rebuild);
        }
        for (chain, rules) in self.desired.settings.chains() {
            let is_last = chain.name == NO_FRONTEND;
            if (!sound && !is_last) || self.observed.rules.get(&chain.name) == Some(&rules) {
                continue;
            }
            let phase = if is_last { &mut self.refusing } else { &mut self.structure };
            phase.push(Edit::ReplaceRules { chain: chain.name, rules });
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
        let kept = new.and_then(|port| match self.plan_lists(port, old) {
            Ok(programmed) => {
                self.additions.extend(self.filling.additions.drain(..));
                self.removals.extend(self.filling.removals.drain(..));
                Some(programmed)
            }
            Err(reason) => {
                self.filling = Filling::default();
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
        if self.observed.remembered.is_empty() {
            return;
        }
        let mut alive: HashMap<(ListId, u32), Target> = HashMap::new();
        for (list, slots) in &self.observed.lists {
            alive.extend(slots.taken().map(|(slot, target)| ((*list, number(slot)), target)));
        }
        for edit in self.additions.iter().chain(self.removals.iter()) {
            match edit {
                Edit::Fill { list, endpoints, first, end } => {
                    let slots = (*first..*end).zip(endpoints.iter().skip(*first as usize));
                    alive.extend(slots.map(|(slot, endpoint)| ((*list, slot), endpoint.into())));
                }
                Edit::PutSlot { list, slot, endpoint, .. } => drop(alive.insert((*list, *slot), *endpoint)),
                Edit::DropSlot { list, slot } => drop(alive.remove(&(*list, *slot))),
                _ => {}
            }
        }
        let alive: HashSet<(ListId, Target)> = alive.into_iter().map(|((list, _), e)| (list, e)).collect();
        for (list, endpoint, key) in &self.observed.remembered {
            if !alive.contains(&(*list, *endpoint)) {
                self.removals.push(Edit::DropStray { set: SetName::Affinity, key: key.clone() });
            }
        }
    }

    fn finish(mut self) -> NftPlan {
        let (mut before, mut switch, mut after) = (Edits::default(), Edits::default(), Edits::default());
        // A set of intervals takes none that overlaps one that is about to go.
        let mut overlapping = Edits::default();
        let mut owners: Vec<(Single, i64)> = self.owners.drain().collect();
        owners.sort();
        let ranges = owners.iter().filter(|(single, more)| *more > 0 && matches!(single, Single::Allowed(..)));
        let coming: BTreeSet<Single> = ranges.map(|(single, _)| *single).collect();
        for (single, difference) in &owners {
            let found = self.observed.singles.get(single).copied();
            let needed = i64::from(found.unwrap_or(0)) + difference > 0;
            match (found.is_some(), needed) {
                (false, true) => before.push(Edit::Add(*single)),
                (true, false) if single.overlaps_one_of(&coming) => overlapping.push(Edit::Remove(*single)),
                (true, false) => after.push(Edit::Remove(*single)),
                _ => {}
            }
        }
        owners.retain(|(_, difference)| *difference != 0);
        for (entry, mark) in &self.puts {
            let replaces = self.observed.entries.get(entry).copied();
            if replaces != Some(*mark) {
                switch.push(Edit::PutEntry { entry: *entry, mark: *mark, replaces });
            }
        }
        let gone = self.drops.iter().filter(|entry| !self.puts.contains_key(*entry));
        let gone = gone.filter(|entry| self.observed.entries.contains_key(*entry));
        switch.extend(gone.map(|entry| Edit::DropEntry { entry: *entry }));
        // A source range has to be in force before its frontend and to outlive it. What is at no frontend is refused when all
        // of them are there: whoever else still serves them must not be kept from it.
        let phases = [
            self.strays,
            self.structure,
            self.additions,
            overlapping,
            before,
            switch,
            self.refusing,
            after,
            self.removals,
        ];
        NftPlan {
            settings: self.desired.settings.clone(),
            steps: steps(phases, self.looking),
            programmed: self.programmed,
            owners,
            next_list: self.next_list,
            revision: Some(self.desired.revision),
            refused: self.refused,
        }
    }
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
