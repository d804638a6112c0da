//! Keeps as many pods as a ReplicaSet asks for. Not responsible for templates changing (`deployment`).

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use runtime::{Deletion, Key, Next, Note, Objects, Queue, Reconcile, Recorder, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::{owners, selector};
pub use plan::Plan;

/// Pods created or deleted in one look at a key.
const BURST: usize = 500;

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue();
    mark_self(&cluster.replica_sets, &queue);
    mark_owners_of_pods(cluster, &queue);
    let replicas = Replicas {
        replica_sets: cluster.replica_sets.clone(),
        pods: cluster.pods.clone(),
        recorder: cluster.recorder.clone(),
    };
    cluster.drive("replica-set", replicas, queue, 8);
}

/// Marks the ReplicaSet that owns a pod, or every one that could adopt it.
fn mark_owners_of_pods(cluster: &Cluster, queue: &Arc<Queue<Key>>) {
    let (replica_sets, queue) = (cluster.replica_sets.clone(), queue.clone());
    cluster.pods.cache().on_change(move |change| {
        for pod in change.both() {
            let namespace = pod.namespace().unwrap_or_default();
            if let Some(owner) = owners::controller(pod.meta()) {
                if owner.kind == "ReplicaSet" {
                    queue.add(Key::new(namespace, &owner.name));
                }
                continue;
            }
            for set in replica_sets.cache().in_namespace(&namespace, |set| plan::matches(set, pod)) {
                queue.add(Key::of(set.meta()));
            }
        }
    });
}

struct Replicas {
    replica_sets: Objects<ReplicaSet>,
    pods: Objects<Pod>,
    recorder: Recorder,
}

impl Reconcile for Replicas {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(set) = self.replica_sets.cache().get(key) else { return Ok(Next::Wait) };
        let plan = self.plan(&set);
        self.claim(&set, &plan).await?;
        let outcome = self.scale(&set, &plan).await;
        // The pods as they are after these writes: the cache has read them.
        let failure = outcome
            .as_ref()
            .err()
            .map(|error| plan::Failure { creating: !plan.create.is_empty(), message: error.message() });
        let pods = self.candidates(&set);
        let (status, next) = plan::status(&set, &pods, failure, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            let next = ReplicaSet { status: Some(status), ..(*set).clone() };
            self.replica_sets.replace_subresource("status", &next).await?;
        }
        outcome?;
        Ok(next.map_or(Next::Wait, |delay| Next::After(delay.max(Duration::from_millis(1)))))
    }
}

impl Replicas {
    fn candidates(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let uid = set.uid().unwrap_or_default();
        let wanted = |pod: &Pod| owners::is_controlled_by(pod.meta(), &uid) || plan::matches(set, pod);
        self.pods.cache().in_namespace(&set.namespace().unwrap_or_default(), wanted)
    }

    fn plan(&self, set: &ReplicaSet) -> Plan {
        Plan::new(set, &self.candidates(set), &self.crowding(set))
    }

    /// How many active pods of the same workload each node has: ReplicaSets of one Deployment count together.
    fn crowding(&self, set: &ReplicaSet) -> BTreeMap<String, usize> {
        let namespace = set.namespace().unwrap_or_default();
        let family: Vec<String> = match owners::controller(set.meta()) {
            Some(owner) => self
                .replica_sets
                .cache()
                .in_namespace(&namespace, |other| owners::is_controlled_by(other.meta(), &owner.uid))
                .iter()
                .filter_map(|other| other.uid())
                .collect(),
            None => set.uid().into_iter().collect(),
        };
        let mut nodes = BTreeMap::new();
        let related = |pod: &Pod| owners::controller(pod.meta()).is_some_and(|owner| family.contains(&owner.uid));
        for pod in self.pods.cache().in_namespace(&namespace, related) {
            if let Some(node) = plan::active_on(&pod) {
                *nodes.entry(node.to_owned()).or_insert(0) += 1;
            }
        }
        nodes
    }

    async fn claim(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), WriteError> {
        for pod in &plan.adopt {
            let patch = owners::adoption(pod.meta(), owners::reference(set.meta(), "apps/v1", "ReplicaSet"));
            self.pods.patch(&Key::of(pod.meta()), &patch).await?;
        }
        for pod in &plan.release {
            let patch = owners::release(pod.meta(), &set.uid().unwrap_or_default());
            match self.pods.patch(&Key::of(pod.meta()), &patch).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Creates in batches that double while they succeed, so that a template the API refuses costs one request, not
    /// hundreds; deletes all at once.
    async fn scale(&self, set: &ReplicaSet, plan: &Plan) -> Result<(), WriteError> {
        let mut waiting = &plan.create[..plan.create.len().min(BURST)];
        let mut batch = 1;
        while !waiting.is_empty() {
            let (now, later) = waiting.split_at(batch.min(waiting.len()));
            let outcomes = join_all(now.iter().map(|pod| self.create(set, pod))).await;
            if let Some(error) = outcomes.into_iter().find_map(Result::err) {
                return if error.namespace_terminating() { Ok(()) } else { Err(error) };
            }
            waiting = later;
            batch *= 2;
        }
        let surplus = &plan.delete[..plan.delete.len().min(BURST)];
        let outcomes = join_all(surplus.iter().map(|pod| self.delete(set, pod))).await;
        outcomes.into_iter().collect()
    }

    async fn create(&self, set: &ReplicaSet, pod: &Pod) -> Result<(), WriteError> {
        match self.pods.create(pod).await {
            Ok(created) => {
                let message = format!("Created pod: {}", created.name_any());
                self.recorder.publish(Note::normal(set, "SuccessfulCreate", message));
                Ok(())
            }
            Err(error) => {
                if !error.namespace_terminating() {
                    let message = format!("Error creating: {}", error.message());
                    self.recorder.publish(Note::warning(set, "FailedCreate", message));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &ReplicaSet, pod: &Pod) -> Result<(), WriteError> {
        let name = pod.name_any();
        match self.pods.delete(pod, Deletion::Background).await {
            Ok(()) => {
                self.recorder.publish(Note::normal(set, "SuccessfulDelete", format!("Deleted pod: {name}")));
                Ok(())
            }
            Err(error) => {
                self.recorder.publish(Note::warning(
                    set,
                    "FailedDelete",
                    format!("Error deleting: {}", error.message()),
                ));
                Err(error)
            }
        }
    }
}

/// Whether the set's selector selects anything at all but not everything.
fn has_selector(set: &ReplicaSet) -> bool {
    set.spec.as_ref().is_some_and(|spec| !selector::is_empty(&spec.selector))
}
