//! What a ReplicaSet's pods should become, as a value. Not responsible for writing it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use crate::conditions::{available, is_active, is_ready, is_terminal, ready_since};
use crate::owners::{self, Claim};
use crate::selector;

/// The writes that bring a ReplicaSet's pods in step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
}

/// Why pods could not be made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub creating: bool,
    pub message: String,
}

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

impl Plan {
    /// `pods` are those that the set owns or selects; `crowding` counts active pods of the same workload per node.
    pub fn new(set: &ReplicaSet, pods: &[Arc<Pod>], crowding: &BTreeMap<String, usize>) -> Self {
        let mut plan = Self::default();
        if !super::has_selector(set) {
            return plan;
        }
        let mut active = Vec::new();
        for pod in pods.iter().filter(|pod| !is_terminal(pod)) {
            match owners::claim(set.meta(), pod.meta(), matches(set, pod)) {
                Claim::Own => active.push(pod.clone()),
                Claim::Adopt => {
                    plan.adopt.push(pod.clone());
                    active.push(pod.clone());
                }
                Claim::Release => plan.release.push(pod.clone()),
                Claim::Leave => {}
            }
        }
        active.retain(|pod| is_active(pod));
        if set.meta().deletion_timestamp.is_some() {
            return plan;
        }
        let wanted = usize::try_from(replicas(set)).unwrap_or(0);
        if active.len() < wanted {
            plan.create = vec![new_pod(set); wanted - active.len()];
        } else {
            let surplus = active.len() - wanted;
            active.sort_by_cached_key(|pod| (rank(pod, crowding), pod.name_any()));
            plan.delete = active.into_iter().take(surplus).collect();
        }
        plan
    }
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the set's selector selects the pod.
pub fn matches(set: &ReplicaSet, pod: &Pod) -> bool {
    super::has_selector(set) && set.spec.as_ref().is_some_and(|spec| selector::matches(&spec.selector, pod.meta()))
}

/// The node on which a pod is active.
pub fn active_on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty() && is_active(pod))
}

/// The smaller, the sooner a pod is deleted: upstream's order. Unassigned first, then not yet running, not ready,
/// cheaper by annotation, on a crowded node, ready for a shorter time, restarted more often, newer.
type Rank = (bool, u8, bool, i32, Reverse<usize>, Reverse<i64>, Reverse<i32>, Reverse<i64>);

fn rank(pod: &Pod, crowding: &BTreeMap<String, usize>) -> Rank {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let phase = match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    let cost = pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let ready = is_ready(pod);
    // Upstream compares ages in powers of two, so that small differences do not decide.
    let age_band = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_second);
    let restarts = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let restarts = restarts.map_or(0, |all| all.iter().map(|status| status.restart_count).max().unwrap_or(0));
    (
        !node.is_empty(),
        phase,
        ready,
        cost,
        Reverse(crowding.get(node).copied().unwrap_or(0)),
        Reverse(if ready { age_band(ready_since(pod)) } else { 0 }),
        Reverse(restarts),
        Reverse(age_band(pod.creation_timestamp().map(|time| time.0))),
    )
}

fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        namespace: set.namespace(),
        generate_name: Some(format!("{}-", set.name_any())),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![owners::reference(set.meta(), "apps/v1", "ReplicaSet")]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec, status: None }
}

/// The status that these pods make, and when to look again because a ready pod becomes available by waiting alone.
pub fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let uid = set.uid().unwrap_or_default();
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone());
    let template = template.unwrap_or_default();
    let (mut total, mut labelled, mut ready, mut ripe, mut leaving) = (0, 0, 0, 0, 0);
    let mut soonest: Option<SignedDuration> = None;
    let own = |pod: &&Arc<Pod>| owners::is_controlled_by(pod.meta(), &uid) && !is_terminal(pod);
    for pod in pods.iter().filter(own) {
        if !is_active(pod) {
            leaving += 1;
            continue;
        }
        total += 1;
        labelled += i32::from(template.iter().all(|(key, value)| pod.labels().get(key) == Some(value)));
        ready += i32::from(is_ready(pod));
        match available(pod, min_ready, now) {
            Ok(()) => ripe += 1,
            Err(Some(left)) => soonest = Some(soonest.map_or(left, |soonest| soonest.min(left))),
            Err(None) => {}
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: total,
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(ready),
        available_replicas: some(ripe),
        // Written as zero too: absence means that nobody counts.
        terminating_replicas: Some(leaving),
        observed_generation: set.meta().generation.or(old.observed_generation),
        conditions: conditions(old.conditions, failure, now),
    };
    (status, soonest.and_then(|left| Duration::try_from(left).ok()))
}

/// Zero is written like upstream's `omitempty`, as absence.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(failure) if !conditions.iter().any(|condition| condition.type_ == "ReplicaFailure") => {
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(if failure.creating { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(failure.message),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "rs-1", "generation": 2 },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                      "template": { "metadata": { "labels": { "app": "web", "x": "y" } },
                                    "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
        }))
        .unwrap()
    }

    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": { "app": "web" },
                          "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
                                                "uid": "rs-1", "controller": true }],
                          "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [], "nodeName": "n1" },
            "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z" }] },
        });
        merge(&mut pod, change);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                change.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, change) => *into = change,
        }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn makes_what_is_missing_from_the_template() {
        let plan = Plan::new(&set(3), &[pod("a", json!({}))], &BTreeMap::new());
        assert_eq!(plan.create.len(), 2);
        let made = &plan.create[0];
        assert_eq!(made.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(made.labels()["x"], "y");
        assert!(owners::is_controlled_by(made.meta(), "rs-1"));
    }

    #[test]
    fn ended_and_leaving_pods_do_not_count() {
        let ended = pod("ended", json!({ "status": { "phase": "Failed" } }));
        let leaving = pod("leaving", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
        let plan = Plan::new(&set(1), &[ended, leaving], &BTreeMap::new());
        assert_eq!((plan.create.len(), plan.delete.len()), (1, 0));
        let whole = [pod("a", json!({}))];
        assert_eq!(Plan::new(&set(1), &whole, &BTreeMap::new()), Plan::default(), "a second look writes nothing");
    }

    #[test]
    fn deletes_in_upstreams_order() {
        let not_ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
        let pods = [
            pod("old", json!({})),
            pod("newer", json!({ "metadata": { "creationTimestamp": "2026-01-02T00:00:00Z" } })),
            pod(
                "restarted",
                json!({ "status": { "containerStatuses": [
                { "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 4 }] } }),
            ),
            pod(
                "fresh",
                json!({ "status": { "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T05:00:00Z" }] } }),
            ),
            pod("crowded", json!({ "spec": { "nodeName": "n2" } })),
            pod("cheap", json!({ "metadata": { "annotations": { DELETION_COST: "-5" } } })),
            pod("not-ready", not_ready),
            pod("pending", json!({ "status": { "phase": "Pending" } })),
            pod("unassigned", json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending" } })),
        ];
        let crowding = BTreeMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 3)]);
        let plan = Plan::new(&set(0), &pods, &crowding);
        let order = ["unassigned", "pending", "not-ready", "cheap", "crowded", "fresh", "restarted", "newer", "old"];
        assert_eq!(names(&plan.delete), order);
    }

    #[test]
    fn adopts_orphans_and_releases_what_no_longer_matches() {
        let orphan = pod("orphan", json!({ "metadata": { "ownerReferences": [] } }));
        let strayed = pod("strayed", json!({ "metadata": { "labels": { "app": "other" } } }));
        let foreign = pod(
            "foreign",
            json!({ "metadata": { "ownerReferences": [
            { "apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true }] } }),
        );
        let plan = Plan::new(&set(1), &[orphan, strayed, foreign], &BTreeMap::new());
        assert_eq!((names(&plan.adopt), names(&plan.release)), (vec!["orphan".into()], vec!["strayed".into()]));
        assert!(plan.create.is_empty() && plan.delete.is_empty());

        let mut leaving = set(5);
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(Plan::new(&leaving, &[], &BTreeMap::new()), Plan::default());
    }

    #[test]
    fn status_counts_and_waits_for_min_ready_seconds() {
        let mut set = set(2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        let (status, next) = status(&set, &[pod("a", json!({}))], None, now);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (1, Some(1), None));
        assert_eq!((status.observed_generation, next), (Some(2), Some(Duration::from_secs(20))));
        set.status = Some(status.clone());
        let failure = Failure { creating: true, message: "no".into() };
        let (failed, _) = super::status(&set, &[pod("a", json!({}))], Some(failure), now);
        assert_eq!(failed.conditions.as_ref().unwrap()[0].reason.as_deref(), Some("FailedCreate"));
        set.status = Some(failed);
        assert_eq!(super::status(&set, &[pod("a", json!({}))], None, now).0, status, "success clears the condition");
    }
}
