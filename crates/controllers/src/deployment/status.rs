//! What a Deployment's status says: counts and upstream's conditions with their reasons. Not responsible for moving
//! anything.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use super::plan::{replicas, set_replicas};
use super::scale::fence;

const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// A Progressing condition; times are filled in by `set_condition`.
pub fn progressing(status: &str, reason: &str, message: impl Into<String>) -> DeploymentCondition {
    condition("Progressing", status, reason, message)
}

fn condition(kind: &str, status: &str, reason: &str, message: impl Into<String>) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_transition_time: None,
        last_update_time: None,
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Sets a condition unless status and reason are as they were. Tells whether it changed.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition, now: Timestamp) -> bool {
    let held = find(status, &condition.type_).cloned();
    if held.as_ref().is_some_and(|held| held.status == condition.status && held.reason == condition.reason) {
        return false;
    }
    let kept = held.filter(|held| held.status == condition.status).and_then(|held| held.last_transition_time);
    condition.last_transition_time = Some(kept.unwrap_or(Time(now)));
    condition.last_update_time = Some(Time(now));
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|other| other.type_ != condition.type_);
    conditions.push(condition);
    true
}

/// As `set_condition`, but also when status and reason stay: progress moves the deadline.
fn renew_condition(status: &mut DeploymentStatus, condition: DeploymentCondition, now: Timestamp) {
    let kind = condition.type_.clone();
    if !set_condition(status, condition, now)
        && let Some(held) = status.conditions.iter_mut().flatten().find(|held| held.type_ == kind)
    {
        held.last_update_time = Some(Time(now));
    }
}

/// Counts and the Available condition.
fn counted(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| sets.iter().map(|set| count(set)).sum::<i32>();
    let available = sum(available_in);
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let mut status = DeploymentStatus {
        observed_generation: deployment.meta().generation,
        replicas: some(sum(pods_in)),
        updated_replicas: some(new.map_or(0, pods_in)),
        ready_replicas: some(sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sum(set_replicas) - available).max(0)),
        terminating_replicas: sets.iter().filter_map(|set| leaving_in(set)).sum(),
        ..deployment.status.clone().unwrap_or_default()
    };
    let enough = available >= replicas(deployment) - fence(deployment).unavailable;
    let condition = if enough {
        condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        condition("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, condition, now);
    status
}

/// Nothing for a set that nobody has looked at yet; `None` inside if whoever did does not count.
fn leaving_in(set: &ReplicaSet) -> Option<Option<i32>> {
    let status = set.status.as_ref()?;
    let seen = status.observed_generation.unwrap_or(0) != 0;
    Some(status.terminating_replicas).filter(|count| seen || count.is_some())
}

fn pods_in(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub fn available_in(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    // The largest number stands for none.
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(seconds.into()))
}

pub fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

/// Whether everything wanted is of the new template and available.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.meta().generation
}

/// The status while paused or being deleted: counts, and Progressing says paused.
pub fn settled(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counted(deployment, sets, new, now);
    pause(deployment, &mut status, now);
    status
}

fn pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = find(status, "Progressing").and_then(|held| held.reason.clone()).unwrap_or_default();
    let condition = match (is_paused(deployment), reason.as_str()) {
        (_, TIMED_OUT) => return,
        (true, _) => progressing("Unknown", PAUSED, "Deployment is paused"),
        (false, PAUSED) => progressing("Unknown", "DeploymentResumed", "Deployment is resumed"),
        (false, _) => return,
    };
    set_condition(status, condition, now);
}

/// The status during a rollout, and when to look again because the deadline may have passed. `found` tells whether
/// the new set existed before.
pub fn rolling(
    deployment: &Deployment,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    found: bool,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counted(deployment, sets, new, now);
    pause(deployment, &mut status, now);
    if deadline(deployment).is_some() {
        progress(deployment, &mut status, new, found, now);
    } else if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != "Progressing");
    }
    failures(&mut status, sets, new);
    let waiting = !is_complete(deployment, &status);
    let left = left(deployment, &status, now).filter(|left| waiting && left.is_positive());
    // A second more, since conditions keep whole seconds.
    let again = left.and_then(|left| Duration::try_from(left + SignedDuration::from_secs(1)).ok());
    (status, again)
}

fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    found: bool,
    now: Timestamp,
) {
    let old = deployment.status.clone().unwrap_or_default();
    let subject = match new {
        Some(set) => format!("ReplicaSet {:?}", set.name_any()),
        None => format!("Deployment {:?}", deployment.name_any()),
    };
    if let Some(set) = new {
        let created =
            progressing("True", "NewReplicaSetCreated", format!("Created new replica set {:?}", set.name_any()));
        let seen = progressing("True", "FoundNewReplicaSet", format!("Found new replica set {:?}", set.name_any()));
        match find(status, "Progressing") {
            _ if !found => return renew_condition(status, created, now),
            None => {
                set_condition(status, seen, now);
            }
            Some(_) => {}
        }
    }
    let was_done = find(&old, "Progressing").is_some_and(|held| held.reason.as_deref() == Some(AVAILABLE));
    if was_done && status.replicas == status.updated_replicas {
        return;
    }
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, progressing("True", AVAILABLE, message), now);
    } else if has_progressed(&old, status) {
        renew_condition(status, progressing("True", "ReplicaSetUpdated", format!("{subject} is progressing.")), now);
    } else if left(deployment, status, now).is_some_and(|left| !left.is_positive()) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, progressing("False", TIMED_OUT, message), now);
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |field: Option<i32>| field.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// How long until the deadline; negative after it. `None` where no deadline is running.
fn left(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<SignedDuration> {
    let deadline = deadline(deployment)?;
    let held = find(status, "Progressing")?;
    if matches!(held.reason.as_deref(), Some(AVAILABLE | TIMED_OUT)) {
        return None;
    }
    let since = held.last_update_time.as_ref().or(held.last_transition_time.as_ref())?.0;
    Some(deadline - now.duration_since(since))
}

/// ReplicaFailure of the new set (or any) shows on the Deployment.
fn failures(status: &mut DeploymentStatus, sets: &[&ReplicaSet], new: Option<&ReplicaSet>) {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    let failure = new.and_then(of).or_else(|| sets.iter().find_map(|set| of(set)));
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "ReplicaFailure");
    conditions.extend(failure.map(|failure| DeploymentCondition {
        type_: failure.type_,
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time,
    }));
}
