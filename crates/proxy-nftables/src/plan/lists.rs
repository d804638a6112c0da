//! Endpoint lists: which number each has, and what brings its slots up to date.

use std::collections::BTreeSet;
use std::sync::Arc;

use proxy::RefusalReason;
use service_model::{EndpointSet, ServicePort, Verdict};

use super::Planner;
use super::compile::class_of;
use super::steps::STEP_EDITS;
use crate::edit::Edit;
use crate::layout::Class;
use crate::mark::{ClassId, ListId};
use crate::state::{Lists, Programmed, Scope, Target};

impl Planner<'_> {
    /// Gives each different endpoint list of a port a number and brings its slots up to date.
    pub(super) fn plan_lists(
        &mut self,
        port: &Arc<ServicePort>,
        old: Option<&Programmed>,
    ) -> Result<Programmed, RefusalReason> {
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
                    self.fill_list(list, endpoints);
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
    fn fill_list(&mut self, list: ListId, wanted: &EndpointSet) {
        let Some(slots) = self.observed.lists.get(&list) else {
            let pieces = (0..wanted.len()).step_by(STEP_EDITS);
            self.filling.additions.extend(pieces.map(|first| {
                let end = number(wanted.len().min(first + STEP_EDITS));
                Edit::Fill { list, endpoints: wanted.clone(), first: number(first), end }
            }));
            return;
        };
        let mut missing: BTreeSet<Target> = wanted.iter().map(Target::from).collect();
        let staying: Vec<bool> =
            (0..wanted.len()).map(|slot| slots.get(slot).is_some_and(|target| missing.remove(&target))).collect();
        let mut missing = missing.into_iter();
        for (slot, stays) in staying.into_iter().enumerate() {
            let Some(endpoint) = (!stays).then(|| missing.next()).flatten() else { continue };
            let replaces = slots.get(slot);
            self.filling.additions.push(Edit::PutSlot { list, slot: number(slot), endpoint, replaces });
        }
        for (slot, _) in slots.taken().filter(|(slot, _)| *slot >= wanted.len()) {
            self.filling.removals.push(Edit::DropSlot { list, slot: number(slot) });
        }
    }

    /// What the affinity map holds for endpoints that leave a list must go with them: all of them, if `new` has no use
    /// for the list.
    pub(super) fn forget(&mut self, list: ListId, new: Option<&Programmed>) {
        let Some(slots) = self.observed.lists.get(&list) else { return };
        let verdicts = new.map(|new| {
            [
                (new.lists.internal, Some(&new.port.internal)),
                (new.lists.external, Some(&new.port.external)),
                (new.lists.local, new.port.local_traffic.as_ref()),
            ]
        });
        let verdict = verdicts.into_iter().flatten().find(|(known, _)| *known == Some(list)).and_then(|(_, v)| v);
        let stays: BTreeSet<Target> = verdict.into_iter().flat_map(Verdict::endpoints).map(Target::from).collect();
        let gone: BTreeSet<Target> =
            slots.taken().map(|(_, target)| target).filter(|target| !stays.contains(target)).collect();
        if !gone.is_empty() {
            self.looking.push(Edit::Forget { list, gone });
        }
    }

    pub(super) fn drop_list(&mut self, list: ListId) {
        let Some(slots) = self.observed.lists.get(&list) else { return };
        for (slot, _) in slots.taken() {
            self.removals.push(Edit::DropSlot { list, slot: number(slot) });
        }
    }
}

pub(super) fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
