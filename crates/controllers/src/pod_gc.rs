//! Deletes pods that are bound to a Node that is no more: nobody else would ever report or end them. Not responsible for
//! Nodes that are only silent (`node_lifecycle`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, ResourceExt};
use runtime::{Deletion, Key, Next, Objects, Queue, Reconcile, WriteError};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::conditions::is_terminal;

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<Key>();
    let (nodes, marks) = (cluster.nodes.clone(), queue.clone());
    cluster.pods.cache().on_change(move |change| {
        if let Some(node) = change.new.as_deref().and_then(node_of) {
            mark_absent(&nodes, node, &marks);
        }
    });
    let marks = queue.clone();
    cluster.nodes.cache().on_change(move |change| {
        if let (Some(node), None) = (&change.old, &change.new) {
            marks.add(Key::cluster(node.name_any()));
        }
    });
    let orphans = Orphans {
        client: cluster.client.clone(),
        nodes: cluster.nodes.clone(),
        pods: cluster.pods.clone(),
        quarantine: cluster.config.node_quarantine,
        missing: Mutex::default(),
    };
    cluster.drive("pod-gc", orphans, queue, 2);
}

fn mark_absent(nodes: &Objects<Node>, node: &str, queue: &Arc<Queue<Key>>) {
    let key = Key::cluster(node);
    if nodes.cache().get(&key).is_none() {
        queue.add(key);
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot tell whether node {node} exists")]
    Look { node: String, source: Box<kube::Error> },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Works through names of Nodes.
struct Orphans {
    client: Client,
    nodes: Objects<Node>,
    pods: Objects<Pod>,
    /// How long a Node must have been away: it may only be re-registering, and pods may be known before it.
    quarantine: Duration,
    missing: Mutex<HashMap<String, Instant>>,
}

impl Reconcile for Orphans {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let pods = self.pods.cache().all();
        let here: Vec<&Arc<Pod>> = pods.iter().filter(|pod| node_of(pod) == Some(key.name.as_str())).collect();
        if here.is_empty() || self.nodes.cache().get(key).is_some() {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(Next::Wait);
        }
        let since = *self
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.name.clone())
            .or_insert_with(Instant::now);
        let left = self.quarantine.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        // Deleting is for ever: the cache's word is not enough.
        let found = Api::<Node>::all(self.client.clone()).get_opt(&key.name).await;
        let found = found.map_err(|source| Error::Look { node: key.name.clone(), source: Box::new(source) })?;
        if found.is_some() {
            return Ok(Next::After(self.quarantine.max(Duration::from_secs(1))));
        }
        for pod in here {
            self.end(pod).await?;
        }
        Ok(Next::Wait)
    }
}

impl Orphans {
    /// Marks the pod as failed, and why, and deletes it at once.
    async fn end(&self, pod: &Pod) -> Result<(), WriteError> {
        if !is_terminal(pod) {
            match self.pods.patch_status(&Key::of(&pod.metadata), &failed(pod, Timestamp::now())).await {
                Err(error) if error.is_not_found() => return Ok(()),
                outcome => outcome.map(drop)?,
            }
        }
        self.pods.delete_with(pod, Deletion::Background, Some(0)).await
    }
}

/// What the status of a pod that its Node has left behind says, in upstream's words.
fn failed(pod: &Pod, now: Timestamp) -> Value {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists",
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "phase": "Failed", "conditions": [condition] } })
}
