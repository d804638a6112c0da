//! What to do next about a Deployment, as a value. Each look takes one step; the writes themselves call for the next.
//! Not responsible for executing it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::revision;
use super::rollout::Rollout;
use super::{scale, status};
use crate::selector;

/// The writes of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Option<ReplicaSet>,
    pub update: Vec<ReplicaSet>,
    pub delete: Vec<ReplicaSet>,
    /// The revision that the Deployment is to be annotated with, if it is not. Written with the status, so that the
    /// generation is for changes by others.
    pub revision: Option<i64>,
    pub status: Option<DeploymentStatus>,
    /// Messages of ScalingReplicaSet events.
    pub notes: Vec<String>,
    pub look_again: Option<Duration>,
}

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn set_replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the Deployment's selector selects the set.
pub fn matches(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector).filter(|selector| !selector::is_empty(selector));
    selector.is_some_and(|selector| selector::matches(selector, set.meta()))
}

/// Plans one step. `sets` are those that the Deployment controls; `running` counts pods that have not ended by the
/// uid of their set.
pub fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    running: &BTreeMap<String, usize>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let new = revision::find_new(deployment, sets.iter().map(|set| &**set)).cloned();
    let is_new = |set: &ReplicaSet| new.as_ref().is_some_and(|new| new.name_any() == set.name_any());
    let mut old: Vec<ReplicaSet> = sets.iter().filter(|set| !is_new(set)).map(|set| (**set).clone()).collect();
    old.sort_by_key(|set| (set.creation_timestamp().map(|time| time.0), set.name_any()));
    let mut rollout = Rollout { deployment, old, new, notes: Vec::new() };

    if deployment.meta().deletion_timestamp.is_none() {
        step(&mut rollout, &mut plan, running);
    }
    let held = |set: &ReplicaSet| sets.iter().any(|held| **held == *set);
    plan.update = rollout.all().filter(|set| !held(set)).cloned().collect();
    plan.notes.append(&mut rollout.notes);
    conclude(&rollout, &mut plan, sets, now);
    plan
}

fn step(rollout: &mut Rollout<'_>, plan: &mut Plan, running: &BTreeMap<String, usize>) {
    let deployment = rollout.deployment;
    let next_revision = rollout.old.iter().map(|set| revision::of(set.meta())).max().unwrap_or(0) + 1;
    if let Some(set) = &mut rollout.new {
        revision::annotate(deployment, set, next_revision);
        set.spec.get_or_insert_default().min_ready_seconds =
            deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    }
    if status::is_paused(deployment) || rollout.is_resized() {
        rollout.resize();
    } else if scale::is_recreate(deployment) {
        match rollout.clear(running) {
            true if rollout.new.is_none() => create(rollout, plan, next_revision),
            true => rollout.grow(),
            false => {}
        }
    } else if rollout.new.is_none() {
        create(rollout, plan, next_revision);
    } else {
        rollout.roll();
    }
    if rollout.notes.is_empty() {
        rollout.mark_sizes();
    }
    let revision = match (&rollout.new, &plan.create) {
        (Some(set), _) | (None, Some(set)) => revision::of(set.meta()),
        (None, None) => return,
    };
    plan.revision = Some(revision).filter(|revision| revision::of(deployment.meta()) != *revision);
}

fn create(rollout: &Rollout<'_>, plan: &mut Plan, revision: i64) {
    let (size, max) = rollout.first_size();
    let set = revision::new_set(rollout.deployment, revision, size, max);
    if size > 0 {
        plan.notes.push(format!("Scaled up replica set {} from 0 to {size}", set.name_any()));
    }
    plan.create = Some(set);
}

/// Status from what is, not from what is about to be; clean-up once everything is rolled out.
fn conclude(rollout: &Rollout<'_>, plan: &mut Plan, sets: &[Arc<ReplicaSet>], now: Timestamp) {
    let deployment = rollout.deployment;
    let leaving = deployment.meta().deletion_timestamp.is_some();
    let current: Vec<&ReplicaSet> = sets.iter().map(|set| &**set).collect();
    let status = if leaving || status::is_paused(deployment) {
        status::settled(deployment, &current, rollout.new.as_ref(), now)
    } else {
        let new = rollout.new.as_ref().or(plan.create.as_ref());
        let (status, again) = status::rolling(deployment, &current, new, plan.create.is_none(), now);
        plan.look_again = again;
        status
    };
    // A paused Deployment's history is kept short at once: nothing of it is going to be needed for a step.
    if !leaving && (status::is_paused(deployment) || status::is_complete(deployment, &status)) {
        plan.delete = rollout.surplus();
    }
    if Some(&status) != deployment.status.as_ref() {
        plan.status = Some(status);
    }
}

#[cfg(test)]
mod tests;
