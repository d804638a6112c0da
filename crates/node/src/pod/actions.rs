//! Carrying out what `plan` decided, and what came of it. Makes no choices of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, Preconditions};
use pod_runtime::{ContainerId, LogLimit, RuntimeError, SandboxNetwork, SandboxSpec, SandboxStatus};
use serde::{Deserialize, Serialize};

use super::hooks;
use super::launch::Failed;
use super::plan::StopReason;
use super::shared::Shared;
use super::spec::{self, PodKey};
use crate::hosts;
use crate::probe::{self, Kind, Rules, Target};
use crate::{resources, sysctl, volumes};

/// What lies ready for a pod's containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub volumes: BTreeMap<String, PathBuf>,
}

/// What came of an action.
#[derive(Debug)]
pub enum Outcome {
    /// `kept` is true when an earlier agent had made them.
    Volumes {
        result: Result<Prepared, String>,
        kept: bool,
    },
    VolumesRefreshed(Result<(), String>),
    VolumesRemoved(Result<(), String>),
    SandboxRan(Result<(), String>),
    SandboxStopped(Result<(), String>),
    SandboxRemoved(Result<(), String>),
    Launched {
        container: String,
        attempt: u32,
        result: Result<(), Failed>,
    },
    Stopped {
        result: Result<(), String>,
    },
    Removed,
    Probed {
        container: String,
        id: ContainerId,
        kind: Kind,
        outcome: probe::Outcome,
    },
    Finished(Result<(), String>),
    Reported(Result<Box<Pod>, kube::Error>),
}

pub(super) fn text<T>(result: Result<T, impl std::fmt::Display>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
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
        of_node: spec::of_node(&pod),
        host_ports: spec::host_ports(&pod),
        sysctls: sysctl::of(&pod),
        cpu_shares: Some(resources::cpu_shares(&pod)),
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
    /// What it runs, which need not be what the pod asks for by now.
    pub image: String,
    pub field_path: String,
    pub grace: Duration,
    pub why: StopReason,
    pub hook: bool,
    pub pod_ip: Option<std::net::IpAddr>,
}

/// What a hook leaves of the grace is at least this.
const AFTER_HOOK: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;

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
        StopReason::Changed => format!("Container {name} definition changed, will be restarted"),
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
    let signal = hooks::stop_signal(&*shared.runtime, &stop.container, &stop.image).await;
    let signalled = Instant::now();
    let result = gone_is_fine(shared.runtime.stop_container(&stop.id, signal, left).await);
    if signal != SIGKILL && signalled.elapsed() >= left {
        let grace = stop.grace.as_secs();
        let message =
            format!("Container {name} did not end by itself within its grace period of {grace}s and was killed");
        shared.events.pod(&key, Some(stop.field_path), true, "ExceededGracePeriod", message);
    }
    Outcome::Stopped { result }
}

/// The run, and its log: nobody can ask for it any more.
pub async fn remove_container(shared: Arc<Shared>, id: ContainerId, log_path: PathBuf) -> Outcome {
    if let Err(error) = gone_is_fine(shared.runtime.remove_container(&id).await) {
        tracing::warn!(error, "cannot remove an old run of a container");
        return Outcome::Removed;
    }
    for file in LogLimit::default().files_of(&log_path) {
        match tokio::fs::remove_file(&file).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %file.display(), "cannot remove an old log");
            }
            _ => {}
        }
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
            } else if let Some(action) = &probe.grpc {
                Target::grpc(action, ip)
            } else {
                None
            };
            match target {
                Some(target) => probe::run(&*shared.runtime, &id, &target, Rules::of(probe).timeout).await,
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
    let places = shared.config.volumes(&key.uid);
    let removed = tokio::task::spawn_blocking(move || {
        volumes::remove(&places).and_then(|()| filetree::remove(&dir)).and_then(|()| filetree::remove(&logs))
    });
    text(text(removed.await)?)?;
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
