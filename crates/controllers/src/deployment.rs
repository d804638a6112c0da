//! Rolls a Deployment's template out over ReplicaSets. Not responsible for pods (`replica_set`).

mod plan;
mod revision;
mod rollout;
mod scale;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};
use runtime::{Deletion, Key, Next, Note, NoteKind, Objects, Queue, Reconcile, Recorder, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::conditions::is_terminal;
use crate::{owners, selector};
use plan::Plan;
use revision::REVISION;

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue();
    mark_self(&cluster.deployments, &queue);
    mark_owners_of_sets(cluster, &queue);
    mark_recreating(cluster, &queue);
    let rollouts = Rollouts {
        deployments: cluster.deployments.clone(),
        replica_sets: cluster.replica_sets.clone(),
        pods: cluster.pods.clone(),
        recorder: cluster.recorder.clone(),
    };
    cluster.drive("deployment", rollouts, queue, 8);
}

fn mark_owners_of_sets(cluster: &Cluster, queue: &Arc<Queue<Key>>) {
    let (deployments, queue) = (cluster.deployments.clone(), queue.clone());
    cluster.replica_sets.cache().on_change(move |change| {
        for set in change.both() {
            let namespace = set.namespace().unwrap_or_default();
            match owners::controller(set.meta()) {
                Some(owner) if owner.kind == "Deployment" => queue.add(Key::new(namespace, &owner.name)),
                Some(_) => {}
                None => {
                    for deployment in deployments.cache().in_namespace(&namespace, |d| plan::matches(d, set)) {
                        queue.add(Key::of(deployment.meta()));
                    }
                }
            }
        }
    });
}

/// A Recreate rollout goes on when the last old pod is gone.
fn mark_recreating(cluster: &Cluster, queue: &Arc<Queue<Key>>) {
    let (sets, queue) = (cluster.replica_sets.clone(), queue.clone());
    cluster.pods.cache().on_change(move |change| {
        let Some(pod) = change.latest().filter(|pod| change.new.is_none() || is_terminal(pod)) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        let Some(owner) = owners::controller_name(pod.meta(), "ReplicaSet") else { return };
        let Some(set) = sets.cache().get(&Key::new(&namespace, owner)) else { return };
        if let Some(owner) = owners::controller_name(set.meta(), "Deployment") {
            queue.add(Key::new(namespace, owner));
        }
    });
}

struct Rollouts {
    deployments: Objects<Deployment>,
    replica_sets: Objects<ReplicaSet>,
    pods: Objects<Pod>,
    recorder: Recorder,
}

impl Reconcile for Rollouts {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(deployment) = self.deployments.cache().get(key) else { return Ok(Next::Wait) };
        if deployment.spec.as_ref().is_none_or(|spec| selector::is_empty(&spec.selector)) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.publish(Note::warning(&*deployment, "SelectingAll", message));
            return Ok(Next::Wait);
        }
        let uid = deployment.uid().unwrap_or_default();
        let related = |set: &ReplicaSet| owners::is_controlled_by(set.meta(), &uid) || plan::matches(&deployment, set);
        self.claim(&deployment, &self.replica_sets.cache().in_namespace(&key.namespace, related)).await?;
        // Read anew: the claims have changed owner references.
        let owned = |set: &ReplicaSet| owners::is_controlled_by(set.meta(), &uid);
        let mine = self.replica_sets.cache().in_namespace(&key.namespace, owned);
        let plan = plan::plan(&deployment, &mine, &self.running(key), Timestamp::now());
        self.write(&deployment, &plan).await?;
        Ok(plan.look_again.map_or(Next::Wait, Next::After))
    }
}

impl Rollouts {
    /// How many pods of each ReplicaSet (by uid) have not ended, terminating ones included.
    fn running(&self, key: &Key) -> BTreeMap<String, usize> {
        let mut running = BTreeMap::new();
        for pod in self.pods.cache().in_namespace(&key.namespace, |pod| !is_terminal(pod)) {
            if let Some(owner) = owners::controller(pod.meta()).filter(|owner| owner.kind == "ReplicaSet") {
                *running.entry(owner.uid.clone()).or_insert(0) += 1;
            }
        }
        running
    }

    /// Adopts and releases ReplicaSets.
    async fn claim(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Result<(), WriteError> {
        for set in sets {
            let patch = match owners::claim(deployment.meta(), set.meta(), plan::matches(deployment, set)) {
                owners::Claim::Adopt => {
                    owners::adoption(set.meta(), owners::reference(deployment.meta(), "apps/v1", "Deployment"))
                }
                owners::Claim::Release => owners::release(set.meta(), &deployment.uid().unwrap_or_default()),
                owners::Claim::Own | owners::Claim::Leave => continue,
            };
            self.replica_sets.patch(&Key::of(set.meta()), &patch).await?;
        }
        Ok(())
    }

    async fn write(&self, deployment: &Deployment, plan: &Plan) -> Result<(), WriteError> {
        if let Some(set) = &plan.create {
            match self.replica_sets.create(set).await {
                Ok(_) => {}
                Err(error) if error.namespace_terminating() => return Ok(()),
                Err(error) if error.is_already_exists() => return self.collide(deployment, set, error).await,
                Err(error) => return self.cannot_create(deployment, set, error).await,
            }
        }
        try_join_all(plan.update.iter().map(|set| self.replica_sets.replace(set))).await?;
        for note in &plan.notes {
            self.recorder.publish(Note::normal(deployment, "ScalingReplicaSet", note.clone()));
        }
        try_join_all(plan.delete.iter().map(|set| self.replica_sets.delete(set, Deletion::Background))).await?;
        // Sets that were written call for another look, whose status says more: most rollouts' writes would be these.
        if !plan.update.is_empty() && plan.create.is_none() && plan.revision.is_none() {
            return Ok(());
        }
        let mut next = deployment.clone();
        if let Some(revision) = plan.revision {
            next.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision.to_string());
        }
        next.status = plan.status.clone().or(next.status);
        if next != *deployment {
            self.deployments.replace_subresource("status", &next).await?;
        }
        Ok(())
    }

    async fn write_status(&self, stored: &Deployment, status: DeploymentStatus) -> Result<(), WriteError> {
        let next = Deployment { status: Some(status), ..stored.clone() };
        self.deployments.replace_subresource("status", &next).await.map(drop)
    }

    /// Another object has the name that the template's hash makes: unless it is the very set we want, hash differently.
    async fn collide(&self, stored: &Deployment, set: &ReplicaSet, error: WriteError) -> Result<(), WriteError> {
        let key = Key::of(set.meta());
        let held = self.replica_sets.cache().get(&key);
        let same = held.is_some_and(|held| {
            owners::is_controlled_by(held.meta(), &stored.uid().unwrap_or_default())
                && revision::same_template(&held, set)
        });
        if !same {
            let mut status = stored.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.write_status(stored, status).await?;
        }
        Err(error)
    }

    async fn cannot_create(&self, stored: &Deployment, set: &ReplicaSet, error: WriteError) -> Result<(), WriteError> {
        let message = format!("Failed to create new replica set {:?}: {}", set.name_any(), error.message());
        let note = Note { kind: NoteKind::Warning, ..Note::normal(stored, "ReplicaSetCreateError", message.clone()) };
        self.recorder.publish(note);
        let mut status = stored.status.clone().unwrap_or_default();
        let failed = status::progressing("False", "ReplicaSetCreateError", message);
        if status::set_condition(&mut status, failed, Timestamp::now()) {
            self.write_status(stored, status).await?;
        }
        Err(error)
    }
}
