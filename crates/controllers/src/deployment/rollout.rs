//! One step of a rollout over working copies of the ReplicaSets. Not responsible for which set is new, or for status.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Resource, ResourceExt};

use super::plan::{replicas, set_replicas};
use super::revision::{self, DESIRED, MAX};
use super::scale::{fence, is_recreate, new_size, proportion};
use super::status::available_in;

/// The Deployment's sets as they are about to be.
pub struct Rollout<'a> {
    pub deployment: &'a Deployment,
    /// Oldest first.
    pub old: Vec<ReplicaSet>,
    pub new: Option<ReplicaSet>,
    pub notes: Vec<String>,
}

impl Rollout<'_> {
    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(set_replicas).sum()
    }

    /// What a new set starts with, and the most that all sets may have together.
    pub fn first_size(&self) -> (i32, i32) {
        (new_size(self.deployment, self.total(), 0), replicas(self.deployment) + fence(self.deployment).surge)
    }

    /// Whether the Deployment's size has changed since the sets were last scaled.
    pub fn is_resized(&self) -> bool {
        let wanted = replicas(self.deployment);
        self.all()
            .filter(|set| set_replicas(set) > 0)
            .filter_map(|set| set.annotations().get(DESIRED)?.parse::<i32>().ok())
            .any(|desired| desired != wanted)
    }

    /// Applies a new size without rolling: to the one active set, or to each in proportion.
    pub fn resize(&mut self) {
        let wanted = replicas(self.deployment);
        let active = self.all().filter(|set| set_replicas(set) > 0).count();
        if active <= 1 {
            let latest = if self.new.is_some() { Some(self.old.len()) } else { self.old.len().checked_sub(1) };
            let only = self.all().position(|set| set_replicas(set) > 0);
            if let Some(index) = only.or(latest) {
                self.scale(index, wanted);
            }
        } else if self.new.as_ref().is_some_and(|new| is_saturated(self.deployment, new)) {
            (0..self.old.len()).for_each(|index| self.scale(index, 0));
        } else if !is_recreate(self.deployment) {
            self.share_out();
        }
    }

    fn share_out(&mut self) {
        let wanted = replicas(self.deployment);
        let allowed = if wanted > 0 { wanted + fence(self.deployment).surge } else { 0 };
        let to_add = allowed - self.total();
        let mut order: Vec<usize> = (0..=self.old.len()).filter(|index| self.size(*index) > 0).collect();
        // Ties go to newer sets when growing, to older ones when shrinking.
        if to_add > 0 {
            order.reverse();
        }
        order.sort_by_key(|index| std::cmp::Reverse(self.size(*index)));
        let mut added = 0;
        let mut sizes: Vec<(usize, i32)> = Vec::new();
        for index in order {
            let share = self.at(index).map_or(0, |set| proportion(self.deployment, set, to_add, added));
            sizes.push((index, self.size(index) + share));
            added += share;
        }
        if let Some((_, first)) = sizes.first_mut().filter(|_| to_add != 0) {
            *first = (*first + to_add - added).max(0);
        }
        for (index, size) in sizes {
            self.scale(index, size);
            self.note_size(index);
        }
    }

    /// Upstream's rolling update: first the new set as far as the fence allows; when nothing is to do there, the old.
    pub fn roll(&mut self) {
        let Some(new) = &self.new else { return };
        let (current, wanted) = (set_replicas(new), replicas(self.deployment));
        let next = if current > wanted { wanted } else { new_size(self.deployment, self.total(), current) };
        if next != current {
            return self.scale(self.old.len(), next);
        }
        self.shrink_old();
    }

    fn shrink_old(&mut self) {
        let minimum = replicas(self.deployment) - fence(self.deployment).unavailable;
        let new_unavailable = self.new.as_ref().map_or(0, |new| set_replicas(new) - available_in(new));
        let mut room = self.total() - minimum - new_unavailable;
        if room <= 0 {
            return;
        }
        // Pods that serve nobody go first.
        for index in 0..self.old.len() {
            let gone = (self.size(index) - available_in(&self.old[index])).min(room);
            if gone > 0 {
                self.scale(index, self.size(index) - gone);
                room -= gone;
            }
        }
        let mut spare = self.all().map(available_in).sum::<i32>() - minimum;
        for index in 0..self.old.len() {
            let gone = self.size(index).min(spare);
            if gone > 0 {
                self.scale(index, self.size(index) - gone);
                spare -= gone;
            }
        }
    }

    /// Recreate: everything old goes before anything new comes. Tells whether the new set may be made or grown.
    pub fn clear(&mut self, running: &BTreeMap<String, usize>) -> bool {
        if self.old.iter().any(|set| set_replicas(set) > 0) {
            (0..self.old.len()).for_each(|index| self.scale(index, 0));
            return false;
        }
        !self.old.iter().any(|set| running.get(&set.uid().unwrap_or_default()).is_some_and(|count| *count > 0))
    }

    pub fn grow(&mut self) {
        self.scale(self.old.len(), replicas(self.deployment));
    }

    /// Old sets beyond `revisionHistoryLimit`, once they are empty.
    pub fn surplus(&self) -> Vec<ReplicaSet> {
        let Some(limit) = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else {
            return Vec::new();
        };
        let mut alive: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.meta().deletion_timestamp.is_none()).collect();
        alive.sort_by_key(|set| revision::of(set.meta()));
        let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let empty = |set: &&ReplicaSet| {
            let observed = set.status.as_ref().and_then(|status| status.observed_generation);
            set_replicas(set) == 0
                && set.status.as_ref().is_none_or(|status| status.replicas == 0)
                && set.meta().generation <= observed
        };
        alive.into_iter().take(surplus).filter(empty).cloned().collect()
    }

    fn at(&self, index: usize) -> Option<&ReplicaSet> {
        if index < self.old.len() { self.old.get(index) } else { self.new.as_ref() }
    }

    fn size(&self, index: usize) -> i32 {
        self.at(index).map_or(0, set_replicas)
    }

    /// Sets a set's size, if it is another one, and notes for which size of the Deployment that was. An index past the
    /// old sets is the new.
    fn scale(&mut self, index: usize, size: i32) {
        let old = self.old.len();
        let set = if index < old { self.old.get_mut(index) } else { self.new.as_mut() };
        let Some(set) = set.filter(|set| set_replicas(set) != size) else { return };
        let before = set_replicas(set);
        set.spec.get_or_insert_default().replicas = Some(size);
        let verb = if size > before { "up" } else { "down" };
        self.notes.push(format!("Scaled {verb} replica set {} from {before} to {size}", set.name_any()));
        self.note_size(index);
    }

    /// Notes on a set for which size of the Deployment its own is right.
    fn note_size(&mut self, index: usize) {
        let (wanted, surge) = (replicas(self.deployment), fence(self.deployment).surge);
        let old = self.old.len();
        if let Some(set) = if index < old { self.old.get_mut(index) } else { self.new.as_mut() } {
            mark(set, wanted, surge);
        }
    }

    /// Brings the notes of active sets up to date that are of another size of the Deployment: those that did not have to
    /// be scaled for this one. Otherwise the Deployment would count as just resized for ever, and never roll.
    pub fn mark_sizes(&mut self) {
        let (wanted, surge) = (replicas(self.deployment), fence(self.deployment).surge);
        let outdated = |set: &&mut ReplicaSet| {
            let desired = set.annotations().get(DESIRED).and_then(|desired| desired.parse::<i32>().ok());
            set_replicas(set) > 0 && desired.is_some_and(|desired| desired != wanted)
        };
        self.old.iter_mut().chain(self.new.as_mut()).filter(outdated).for_each(|set| mark(set, wanted, surge));
    }
}

fn mark(set: &mut ReplicaSet, wanted: i32, surge: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAX.to_owned(), (wanted + surge).to_string());
}

fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = replicas(deployment);
    let desired = set.annotations().get(DESIRED).and_then(|desired| desired.parse::<i32>().ok());
    set_replicas(set) == wanted && desired == Some(wanted) && available_in(set) == wanted
}
