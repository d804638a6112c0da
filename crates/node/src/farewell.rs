//! The node ends: containers that listen are told so, and have a little time.
//!
//! Their `preStop` hooks aren't run and their grace isn't theirs: the pods stay in the API, and go on with the node's next
//! start. Not responsible for how a container is told (the runtime).

use std::sync::PoisonError;
use std::time::Duration;

use futures::future::join_all;
use pod_runtime::{ContainerState, ContainerStatus};

use crate::agent::Pods;
use crate::pod::{Shared, spec, stop_signal};

/// What a person waits for who has asked for the end.
const MOST: Duration = Duration::from_secs(3);
const SIGTERM: i32 = 15;

/// Returns when everything that listens has ended, or after a while.
pub async fn say(shared: &Shared, pods: &Pods) {
    let containers = match shared.runtime.containers(None).await {
        Ok(containers) => containers,
        Err(error) => return tracing::warn!(%error, "cannot list containers to end them with the node"),
    };
    let running = containers.iter().filter(|container| matches!(container.state, ContainerState::Running { .. }));
    let ends = join_all(running.map(|container| end(shared, pods, container)));
    if tokio::time::timeout(MOST, ends).await.is_err() {
        tracing::info!("containers that have not ended with the node are killed");
    }
}

async fn end(shared: &Shared, pods: &Pods, container: &ContainerStatus) {
    let uid = container.sandbox.0.rsplit_once('-').map_or("", |(uid, _)| uid);
    let pod = pods.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
    let signal = match pod.as_ref().and_then(|pod| spec::member(pod, &container.name)) {
        Some(member) => stop_signal(&*shared.runtime, member.container, &container.image).await,
        None => SIGTERM,
    };
    if let Err(error) = shared.runtime.end_with_node(&container.id, signal).await {
        tracing::warn!(%error, container = container.id.0, "cannot end a container with the node");
    }
}
