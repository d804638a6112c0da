//! Carrying out what `plan` decided, and what came of it. Makes no choices of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, Preconditions};
use pod_runtime::{ContainerId, RuntimeError, SandboxNetwork, SandboxSpec, SandboxStatus};
use serde::{Deserialize, Serialize};

use super::hooks;
use super::launch::Failed;
use super::plan::StopReason;
use super::shared::Shared;
use super::spec::{self, PodKey};
use crate::hosts;
use crate::probe::{self, Kind, Rules, Target};
use crate::volumes;

/// What lies ready for a pod's containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub volumes: BTreeMap<String, PathBuf>,
}

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    Volumes(Result<Prepared, String>),
    SandboxRan(Result<(), String>),
    SandboxStopped(Result<(), String>),
    SandboxRemoved(Result<(), String>),
    Launched { container: String, attempt: u32, result: Result<(), Failed> },
    Stopped { result: Result<(), String> },
    Removed,
    Probed { container: String, id: ContainerId, kind: Kind, outcome: probe::Outcome },
    Finished(Result<(), String>),
    Reported(Result<Box<Pod>, kube::Error>),
}

fn text<T>(result: Result<T, impl std::fmt::Display>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// A file beside the volumes says that they are complete, so that a later agent leaves them as they are.
const MARK: &str = "volumes.json";

pub async fn prepare_volumes(shared: Arc<Shared>, pod: Arc<Pod>) -> Outcome {
    Outcome::Volumes(prepare(&shared, &pod).await)
}

async fn prepare(shared: &Shared, pod: &Pod) -> Result<Prepared, String> {
    let key = PodKey::of(pod);
    let dir = shared.config.pod_dir(&key.uid);
    let mark = dir.join(MARK);
    if let Ok(known) = tokio::fs::read(&mark).await
        && let Ok(prepared) = serde_json::from_slice(&known)
    {
        return Ok(prepared);
    }
    let sources = text(shared.sources(&key.namespace, volumes::references(pod)).await)?;
    // Volumes are made before the pod has an address; a file that asks for it gets what the status says.
    let pod_ips = shared.pod_ips(pod, None);
    let facts = crate::container::Facts { pod_ips: &pod_ips, ..shared.facts() };
    let plans = text(volumes::plan(pod, &sources, &facts))?;
    let group = spec::spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    let group = text(group.map(u32::try_from).transpose())?;
    let root = dir.join("volumes");
    let written = tokio::task::spawn_blocking(move || volumes::write(&root, &plans, group)).await;
    let prepared = Prepared { volumes: text(text(written)?)? };
    text(tokio::fs::create_dir_all(&dir).await)?;
    text(tokio::fs::write(&mark, text(serde_json::to_vec(&prepared))?).await)?;
    Ok(prepared)
}

pub async fn run_sandbox(shared: Arc<Shared>, pod: Arc<Pod>, id: pod_runtime::SandboxId) -> Outcome {
    let key = PodKey::of(&pod);
    let names = match hosts::names(&pod, &shared.config.node_name, &shared.config.cluster_domain) {
        Ok(names) => names,
        Err(error) => return Outcome::SandboxRan(Err(error.to_string())),
    };
    let spec = SandboxSpec {
        id,
        namespace: key.namespace,
        name: key.name,
        uid: key.uid,
        hostname: names.hostname,
        network: if spec::host_network(&pod) { SandboxNetwork::Node } else { SandboxNetwork::Pod },
        annotations: BTreeMap::new(),
    };
    Outcome::SandboxRan(text(shared.runtime.run_sandbox(&spec).await.map(drop)))
}

/// A sandbox that is gone is as good as stopped or removed.
fn gone_is_fine(result: Result<(), RuntimeError>) -> Result<(), String> {
    match result {
        Err(RuntimeError::NoSandbox(_) | RuntimeError::NoContainer(_)) => Ok(()),
        other => text(other),
    }
}

pub async fn stop_sandbox(shared: Arc<Shared>, id: pod_runtime::SandboxId) -> Outcome {
    Outcome::SandboxStopped(gone_is_fine(shared.runtime.stop_sandbox(&id).await))
}

pub async fn remove_sandbox(shared: Arc<Shared>, id: pod_runtime::SandboxId) -> Outcome {
    Outcome::SandboxRemoved(gone_is_fine(shared.runtime.remove_sandbox(&id).await))
}

/// An order to stop a container.
pub struct Stop {
    pub pod: Arc<Pod>,
    pub id: ContainerId,
    pub container: Container,
    pub field_path: String,
    pub grace: Duration,
    pub why: StopReason,
    pub hook: bool,
    pub pod_ip: Option<std::net::IpAddr>,
}

/// What a hook leaves of the grace is at least this.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// Hook, signal, grace, SIGKILL.
///
/// The one place where a stop begins: whatever must hold before a container is told to end (every proxy has programmed
/// the endpoint's removal) is waited for here, before the hook.
pub async fn stop(shared: Arc<Shared>, stop: Stop) -> Outcome {
    let key = PodKey::of(&stop.pod);
    let name = &stop.container.name;
    let message = match stop.why {
        StopReason::PodEnds => format!("Stopping container {name}"),
        StopReason::Liveness => format!("Container {name} failed liveness probe, will be restarted"),
        StopReason::Startup => format!("Container {name} failed startup probe, will be restarted"),
    };
    let started = Instant::now();
    if stop.hook {
        shared.events.pod(&key, Some(stop.field_path.clone()), false, "Killing", message);
        let handler = stop.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(handler) = handler {
            let hook = hooks::hook(&*shared.runtime, &stop.id, &stop.container, handler, stop.pod_ip, stop.grace);
            if let Err(error) = hook.await {
                let message = format!("PreStopHook failed: {error}");
                shared.events.pod(&key, Some(stop.field_path.clone()), true, "FailedPreStopHook", message);
            }
        }
    }
    let left = if stop.hook {
        stop.grace.saturating_sub(started.elapsed()).max(AFTER_HOOK.min(stop.grace))
    } else {
        stop.grace
    };
    let reference = stop.container.image.as_deref().unwrap_or("");
    let image = shared.runtime.image(reference).await.ok().flatten().map(|image| image.stop_signal);
    let signal = hooks::stop_signal(&stop.container, image);
    Outcome::Stopped { result: gone_is_fine(shared.runtime.stop_container(&stop.id, signal, left).await) }
}

pub async fn remove_container(shared: Arc<Shared>, id: ContainerId) -> Outcome {
    if let Err(error) = gone_is_fine(shared.runtime.remove_container(&id).await) {
        tracing::warn!(error, "cannot remove an old run of a container");
    }
    Outcome::Removed
}

pub async fn ask(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    sandbox: Option<SandboxStatus>,
    container: Container,
    id: ContainerId,
    kind: Kind,
) -> Outcome {
    let ip = shared.pod_ips(&pod, sandbox.as_ref()).first().copied();
    let outcome = match super::memory::probe_of(&container, kind) {
        None => probe::Outcome::Good,
        Some(probe) => {
            let target = if let Some(action) = &probe.exec {
                Some(Target::exec(action))
            } else if let Some(action) = &probe.http_get {
                Target::http(action, &container, ip)
            } else if let Some(action) = &probe.tcp_socket {
                Target::tcp(action, &container, ip)
            } else {
                None
            };
            match target {
                Some(target) => probe::run(&*shared.runtime, &id, &target, Rules::of(probe).timeout).await,
                None if probe.grpc.is_some() => {
                    probe::Outcome::Error("grpc probes are not supported by this node".to_owned())
                }
                None => probe::Outcome::Error("the probe's port is none of the container's".to_owned()),
            }
        }
    };
    Outcome::Probed { container: container.name, id, kind, outcome }
}

/// The pod's sandbox, files and object, in this order: a new pod of the same name starts on clean ground.
pub async fn finish(shared: Arc<Shared>, key: PodKey, sandbox: Option<pod_runtime::SandboxId>, gone: bool) -> Outcome {
    Outcome::Finished(finish_steps(&shared, &key, sandbox, gone).await)
}

async fn finish_steps(
    shared: &Shared,
    key: &PodKey,
    sandbox: Option<pod_runtime::SandboxId>,
    gone: bool,
) -> Result<(), String> {
    if let Some(id) = sandbox {
        gone_is_fine(shared.runtime.remove_sandbox(&id).await)?;
    }
    let (dir, logs) = (shared.config.pod_dir(&key.uid), shared.config.log_dir(key));
    let removed =
        tokio::task::spawn_blocking(move || volumes::remove(&dir).and_then(|()| volumes::remove(&logs))).await;
    text(text(removed)?)?;
    if gone {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &key.namespace);
    let preconditions = Preconditions { uid: Some(key.uid.clone()), ..Default::default() };
    let params =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(()),
        // Gone already, or the name belongs to another pod by now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
