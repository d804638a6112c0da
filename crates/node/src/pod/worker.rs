//! One task per pod: observe, decide, start what is needed, report, wait for whatever happens next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use pod_runtime::{ContainerId, ContainerState, SandboxStatus};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::actions::{self, Outcome, Prepared};
use super::launch::Launch;
use super::memory::{FailureKind, LaunchFailure, Memory, NodeVerdict, probe_of};
use super::observed::Observed;
use super::plan::{Action, Decision, Key, Notice, StopReason, decide};
use super::shared::Shared;
use super::spec::{self, PodKey, sandbox_attempt};
use super::status::{patch, status};
use super::termination::Messages;
use super::view::View;
use super::{unsupported, volume_steps};
use crate::clock::Moment;
use crate::probe::{self, Rules, Tracker};
use crate::source_watch::{self, Source, SourceKind};
use crate::{admission, volumes};

/// What the API says of a pod.
#[derive(Clone, Debug)]
pub struct PodChange {
    pub pod: Arc<Pod>,
    /// It is no longer in the API.
    pub gone: bool,
    /// The node fails it.
    pub failed: Option<NodeVerdict>,
}

/// What the agent holds of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pub desired: watch::Sender<PodChange>,
    poke: Arc<Notify>,
}

impl WorkerHandle {
    /// Something may have happened to its containers: look again.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}

/// How often a worker looks although nobody called.
const RESYNC: Duration = Duration::from_secs(30);
/// How long a failed report waits.
const REPORT_RETRY: Duration = Duration::from_millis(500);

pub struct Worker {
    shared: Arc<Shared>,
    key: PodKey,
    desired: watch::Receiver<PodChange>,
    poke: Arc<Notify>,
    /// The newest object known: from the watch or from our own patch.
    pod: Arc<Pod>,
    gone: bool,
    observed: Observed,
    stale_sandbox: bool,
    memory: Memory,
    prepared: Prepared,
    tasks: JoinSet<Outcome>,
    keys: HashMap<tokio::task::Id, Option<Key>>,
    reporting: bool,
    report_at: Option<Moment>,
    /// Cancelled when the pod begins to end.
    ending: CancellationToken,
    /// What the volumes are made from, and news of it.
    sources: BTreeSet<Source>,
    source_changes: Option<broadcast::Receiver<Source>>,
    termination: Messages,
}

impl Worker {
    /// A worker for a pod; `sandbox` is one that an earlier agent made for it.
    pub fn new(shared: Arc<Shared>, pod: Arc<Pod>, sandbox: Option<SandboxStatus>) -> (WorkerHandle, Self) {
        let (sender, desired) = watch::channel(PodChange { pod: pod.clone(), gone: false, failed: None });
        let poke = Arc::new(Notify::new());
        let handle = WorkerHandle { desired: sender, poke: poke.clone() };
        let key = PodKey::of(&pod);
        let sources = sources(&key, &pod);
        // Before they are read, so that no change goes unnoticed.
        let source_changes =
            (!sources.is_empty()).then(|| shared.source_watch.subscribe(sources.iter().map(|source| source.kind)));
        let worker = Worker {
            key,
            sources,
            source_changes,
            termination: Messages::default(),
            desired,
            poke,
            pod,
            gone: false,
            stale_sandbox: sandbox.is_none(),
            observed: Observed { sandbox, containers: Vec::new() },
            memory: Memory::default(),
            prepared: Prepared::default(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            reporting: false,
            report_at: None,
            ending: CancellationToken::new(),
            shared,
        };
        (handle, worker)
    }

    /// Runs until nothing is left of the pod, or until `stop`: then everything stays as it is.
    pub async fn run(mut self, stop: CancellationToken) {
        self.adopt().await;
        loop {
            self.observe().await;
            let decision = self.decide();
            let wake = decision.wake_at;
            self.carry_out(decision);
            if self.step(wake, &stop).await {
                return;
            }
        }
    }

    /// Waits for the next reason to decide again. True when there is none.
    async fn step(&mut self, wake: Option<Moment>, stop: &CancellationToken) -> bool {
        let now = self.shared.clock.now();
        let wake = [wake, self.report_at].into_iter().flatten().min();
        let pause = wake.map_or(RESYNC, |at| at.since(now).min(RESYNC));
        tokio::select! {
            () = stop.cancelled() => true,
            Some(ended) = self.tasks.join_next_with_id() => {
                let finished = self.settle(ended);
                // Whatever else has ended by now belongs to the same look.
                while let Some(ended) = self.tasks.try_join_next_with_id() {
                    self.settle(ended);
                }
                finished
            }
            changed = self.desired.changed() => {
                if changed.is_err() {
                    return true;
                }
                self.take_desired();
                false
            }
            () = source_watch::changed(&mut self.source_changes, &self.sources) => {
                self.memory.volumes_stale = true;
                false
            }
            () = self.poke.notified() => {
                self.stale_sandbox = true;
                false
            }
            () = tokio::time::sleep(pause) => {
                self.stale_sandbox |= pause == RESYNC;
                false
            }
        }
    }

    fn take_desired(&mut self) {
        let change = self.desired.borrow_and_update().clone();
        self.gone = change.gone;
        if let Some(verdict) = change.failed
            && self.memory.failed.is_none()
            && !spec::is_terminal(&self.pod)
        {
            self.shared.events.pod(&self.key, None, true, verdict.reason, verdict.message.clone());
            self.memory.failed = Some(verdict);
        }
        self.take_pod(change.pod);
    }

    /// The newest object: from the watch, or in the answer to our own report.
    fn take_pod(&mut self, pod: Arc<Pod>) {
        if !newer(&pod, &self.pod) {
            return;
        }
        let (old, new) = (&self.pod.metadata, &pod.metadata);
        let renamed = old.labels != new.labels || old.annotations != new.annotations;
        self.memory.volumes_stale |= renamed && volumes::follows_metadata(&pod);
        for member in spec::members(&self.pod) {
            let changed =
                spec::member(&pod, member.name()).is_some_and(|new| new.container.image != member.container.image);
            if changed {
                // What another image failed at doesn't make this one wait.
                self.memory.containers.remove(member.name());
            }
        }
        self.pod = pod;
    }

    async fn adopt(&mut self) {
        self.take_desired();
        self.observe().await;
        let running: BTreeMap<String, ContainerId> = self
            .observed
            .containers
            .iter()
            .filter(|container| matches!(container.state, ContainerState::Running { .. }))
            .map(|container| (container.name.clone(), container.id.clone()))
            .collect();
        let failed = self.memory.failed.take();
        self.memory = Memory { failed, ..Memory::adopt(&self.pod, &running, self.shared.clock.now()) };
        self.memory.next_sandbox = self.observed.next_sandbox();
        self.reject().await;
        let unsupported = unsupported::fields(&self.pod);
        // Said once: an agent that takes a running pod over doesn't repeat it.
        if !unsupported.is_empty() && !admission::is_admitted(&self.pod) {
            let message = format!("this node does not act on: {}", unsupported.join(", "));
            self.shared.events.pod(&self.key, None, true, "UnsupportedFields", message);
        }
    }

    /// What no node would run, or not this one.
    async fn reject(&mut self) {
        if spec::is_terminal(&self.pod) || self.memory.failed.is_some() {
            return;
        }
        let mut verdict = admission::by_fields(&self.pod);
        if verdict.is_none() && !admission::is_admitted(&self.pod) && admission::asks_for_labels(&self.pod) {
            // A refusal is for good: none on a guess.
            verdict = self.shared.node().await.and_then(|node| admission::by_labels(&self.pod, &node));
        }
        if let Some(verdict) = verdict {
            self.shared.events.pod(&self.key, None, true, verdict.reason, verdict.message.clone());
            self.memory.failed = Some(verdict);
        }
    }

    async fn observe(&mut self) {
        if std::mem::take(&mut self.stale_sandbox) {
            match self.shared.runtime.sandboxes().await {
                Ok(all) => {
                    let own = all.into_iter().filter(|sandbox| sandbox.spec.uid == self.key.uid);
                    self.observed.sandbox = own.max_by_key(|sandbox| sandbox_attempt(&sandbox.spec.id));
                    self.memory.next_sandbox = self.memory.next_sandbox.max(self.observed.next_sandbox());
                }
                Err(error) => {
                    tracing::warn!(%error, pod = self.key.name, "cannot list sandboxes");
                    self.stale_sandbox = true;
                }
            }
        }
        self.refresh_containers().await;
    }

    async fn refresh_containers(&mut self) {
        let Some(sandbox) = &self.observed.sandbox else {
            self.observed.containers.clear();
            return;
        };
        match self.shared.runtime.containers(Some(&sandbox.spec.id)).await {
            Ok(mut containers) => {
                self.termination.complete(&self.shared.config, &self.pod, &mut containers).await;
                self.observed.containers = containers;
            }
            Err(pod_runtime::RuntimeError::NoSandbox(_)) => {
                self.observed = Observed::default();
                self.stale_sandbox = true;
            }
            Err(error) => tracing::warn!(%error, pod = self.key.name, "cannot list containers"),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            gone: self.gone,
            observed: &self.observed,
            memory: &self.memory,
            now: self.shared.clock.now(),
        }
    }

    fn decide(&mut self) -> Decision {
        let view = self.view();
        let (ends, now) = (view.ending().is_some(), view.now);
        if ends && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(now);
            self.ending.cancel();
        }
        decide(&self.view())
    }

    /// Starts the actions and the report. The very last action waits until the final status is reported.
    fn carry_out(&mut self, decision: Decision) {
        for notice in decision.notices {
            self.announce(&notice);
        }
        let reported = self.report();
        for action in decision.actions {
            if reported || action != Action::Finish {
                self.start(action);
            }
        }
    }

    fn announce(&mut self, notice: &Notice) {
        self.memory.announced.insert(notice.key.clone());
        self.shared.events.notice(&self.key, notice);
    }

    /// Sends the status if it differs from what the API has. True when it doesn't.
    fn report(&mut self) -> bool {
        if self.gone {
            return true;
        }
        let now = self.shared.clock.now();
        let wanted = status(&self.view(), &self.shared.config.node_ips);
        let Some(changes) = patch(self.pod.status.as_ref(), &wanted) else { return !self.reporting };
        if self.reporting || self.report_at.is_some_and(|at| at > now) {
            return false;
        }
        let mut metadata = serde_json::json!({"uid": self.key.uid});
        if spec::spec(&self.pod).readiness_gates.is_some() {
            // Others write conditions too: theirs must not be overwritten by what we last saw.
            metadata["resourceVersion"] = serde_json::json!(self.pod.metadata.resource_version);
        }
        let body = serde_json::json!({"metadata": metadata, "status": changes});
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &self.key.namespace);
        let name = self.key.name.clone();
        (self.reporting, self.report_at) = (true, None);
        self.spawn(None, async move {
            let patched = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(body)).await;
            Outcome::Reported(patched.map(Box::new))
        });
        false
    }

    fn spawn(&mut self, key: Option<Key>, task: impl Future<Output = Outcome> + Send + 'static) {
        if let Some(key) = &key {
            self.memory.in_flight.insert(key.clone());
        }
        let id = self.tasks.spawn(task).id();
        self.keys.insert(id, key);
    }

    fn start(&mut self, action: Action) {
        let key = Some(action.key());
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        match action {
            Action::PrepareVolumes => self.spawn(key, volume_steps::prepare(shared, pod)),
            Action::RefreshVolumes => {
                self.memory.volumes_stale = false;
                self.spawn(key, volume_steps::refresh(shared, pod));
            }
            Action::RemoveVolumes => self.spawn(key, volume_steps::remove(shared, pod)),
            Action::RunSandbox(id) => {
                let attempt = sandbox_attempt(&id).saturating_add(1);
                self.memory.next_sandbox = self.memory.next_sandbox.max(attempt);
                self.spawn(key, actions::run_sandbox(shared, pod, id));
            }
            Action::StopSandbox(id) => self.spawn(key, actions::stop_sandbox(shared, id)),
            Action::RemoveSandbox(id) => self.spawn(key, actions::remove_sandbox(shared, id)),
            Action::Launch { container, attempt, may_pull, after } => {
                self.memory.launching(&container, after, self.shared.clock.now());
                self.launch(container, attempt, may_pull);
            }
            Action::Stop { id, container, grace, why, hook, .. } => {
                if why == StopReason::Changed {
                    self.memory.replaced.insert(id.clone());
                }
                let Some((container, field_path)) = spec::member(&pod, &container).map(Launch::of) else { return };
                let pod_ip = shared.pod_ips(&pod, self.observed.sandbox.as_ref()).first().copied();
                let run = self.observed.containers.iter().find(|run| run.id == id);
                let image = run.map(|run| run.image.clone()).unwrap_or_default();
                let stop = actions::Stop { pod, id, container, image, field_path, grace, why, hook, pod_ip };
                self.spawn(key, actions::stop(shared, stop));
            }
            Action::Remove(id) => {
                let run = self.observed.containers.iter().find(|container| container.id == id);
                let log_path = run.map(|run| run.log_path.clone()).unwrap_or_default();
                self.spawn(key, actions::remove_container(shared, id, log_path));
            }
            Action::Probe { container, id, kind } => {
                let Some(container) = spec::member(&pod, &container).map(|member| member.container.clone()) else {
                    return;
                };
                let sandbox = self.observed.sandbox.clone();
                self.spawn(key, actions::ask(shared, pod, sandbox, container, id, kind));
            }
            Action::Finish => {
                let sandbox = self.observed.sandbox.as_ref().map(|sandbox| sandbox.spec.id.clone());
                self.spawn(key, actions::finish(shared, self.key.clone(), sandbox, self.gone));
            }
        }
    }

    fn launch(&mut self, container: String, attempt: u32, may_pull: bool) {
        let Some(sandbox) = self.observed.sandbox.clone() else { return };
        let Some((spec, field_path)) = spec::member(&self.pod, &container).map(Launch::of) else { return };
        let launch = Launch {
            shared: self.shared.clone(),
            pod: self.pod.clone(),
            sandbox,
            prepared: self.prepared.clone(),
            container: spec,
            field_path,
            attempt,
            may_pull,
            ending: self.ending.clone(),
        };
        self.spawn(Some(Key::Launch(container.clone())), async move {
            Outcome::Launched { container, attempt, result: launch.run().await }
        });
    }

    /// Takes in what came of a task. True when the pod is finished.
    fn settle(&mut self, ended: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>) -> bool {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                tracing::error!(%error, pod = self.key.name, "a task of a pod ended without a result");
                (error.id(), None)
            }
        };
        match self.keys.remove(&id) {
            Some(Some(key)) => {
                self.memory.in_flight.remove(&key);
            }
            Some(None) => self.reporting = false,
            None => {}
        }
        outcome.is_some_and(|outcome| self.record(outcome))
    }

    fn record(&mut self, outcome: Outcome) -> bool {
        let now = self.shared.clock.now();
        match outcome {
            Outcome::Volumes { result, kept } => self.volumes_made(result, kept, now),
            Outcome::VolumesRefreshed(result) => self.volumes_refreshed(result, now),
            Outcome::VolumesRemoved(result) => {
                self.memory.volumes_removed = result.is_ok();
                self.taken_down(result, now);
            }
            Outcome::SandboxRan(result) => self.sandbox_done(result, "FailedCreatePodSandBox", now),
            Outcome::SandboxRemoved(result) => self.sandbox_done(result, "FailedKillPod", now),
            Outcome::SandboxStopped(result) => {
                self.stale_sandbox = true;
                self.taken_down(result, now);
            }
            Outcome::Launched { container, attempt, result } => self.launched(&container, attempt, result, now),
            Outcome::Stopped { result } => self.taken_down(result, now),
            Outcome::Removed => {}
            Outcome::Probed { container, id, kind, outcome } => self.probed(&container, &id, kind, outcome, now),
            Outcome::Finished(Ok(())) => return true,
            Outcome::Finished(result) => self.taken_down(result, now),
            Outcome::Reported(Ok(pod)) => self.take_pod(Arc::from(pod)),
            Outcome::Reported(Err(error)) => self.report_failed(&error, now),
        }
        false
    }

    fn volumes_made(&mut self, result: Result<Prepared, String>, kept: bool, now: Moment) {
        match result {
            Ok(prepared) => {
                self.prepared = prepared;
                self.memory.volumes.succeeded();
                // What an earlier agent wrote may be out of date.
                self.memory.volumes_stale |= kept && (!self.sources.is_empty() || volumes::follows_metadata(&self.pod));
            }
            Err(message) => {
                if self.memory.volumes.failure.as_ref() != Some(&message) {
                    self.shared.events.pod(&self.key, None, true, "FailedMount", message.clone());
                }
                self.memory.volumes.failed(message, now);
            }
        }
    }

    /// What can't be brought up to date (an object that is gone) stays as it was.
    fn volumes_refreshed(&mut self, result: Result<(), String>, now: Moment) {
        match result {
            Ok(()) => self.memory.refresh.succeeded(),
            Err(message) => {
                if self.memory.refresh.failure.as_ref() != Some(&message) {
                    self.shared.events.pod(&self.key, None, true, "FailedMount", message.clone());
                }
                self.memory.refresh.failed(message, now);
                self.memory.volumes_stale = true;
            }
        }
    }

    fn sandbox_done(&mut self, result: Result<(), String>, reason: &'static str, now: Moment) {
        self.stale_sandbox = true;
        match result {
            Ok(()) => self.memory.sandbox.succeeded(),
            Err(error) => {
                let message = match reason {
                    "FailedCreatePodSandBox" => format!("Failed to create pod sandbox: {error}"),
                    _ => format!("error killing pod: {error}"),
                };
                if self.memory.sandbox.failure.as_ref() != Some(&message) {
                    self.shared.events.pod(&self.key, None, true, reason, message.clone());
                }
                self.memory.sandbox.failed(message, now);
            }
        }
    }

    fn taken_down(&mut self, result: Result<(), String>, now: Moment) {
        match result {
            Ok(()) => self.memory.teardown.succeeded(),
            Err(error) => {
                self.stale_sandbox = true;
                let message = format!("error killing pod: {error}");
                if self.memory.teardown.failure.as_ref() != Some(&message) {
                    self.shared.events.pod(&self.key, None, true, "FailedKillPod", message.clone());
                }
                self.memory.teardown.failed(message, now);
            }
        }
    }

    fn launched(&mut self, name: &str, attempt: u32, result: Result<(), super::launch::Failed>, now: Moment) {
        match result {
            Ok(()) => self.memory.launched(name),
            Err(failed) => {
                self.tell_failed_launch(name, &failed);
                let failure =
                    LaunchFailure { attempt, kind: failed.kind, message: failed.message, at: now, checked: now };
                self.memory.launch_failed(name, failure, failed.pulled, now);
            }
        }
    }

    /// What keeps a container from being configured, made or started is told when it changes, not at every try. Images
    /// and hooks tell their own.
    fn tell_failed_launch(&self, name: &str, failed: &super::launch::Failed) {
        let image = matches!(failed.kind, FailureKind::InvalidImageName | FailureKind::ImageInspect);
        let own = image || matches!(failed.kind, FailureKind::Config | FailureKind::Create | FailureKind::Run);
        let known = self.memory.container(name).and_then(|container| container.failure.as_ref());
        let told = known.is_some_and(|known| known.kind == failed.kind && known.message == failed.message);
        if own && !told && !self.ending.is_cancelled() {
            let path = spec::member(&self.pod, name).map(|member| member.field_path());
            let mut message = failed.message.as_str();
            if image {
                self.shared.events.pod(&self.key, path.clone(), true, "InspectFailed", message.to_owned());
                message = failed.kind.reason();
            }
            self.shared.events.pod(&self.key, path, true, "Failed", format!("Error: {message}"));
        }
    }

    fn probed(&mut self, name: &str, id: &ContainerId, kind: probe::Kind, outcome: probe::Outcome, now: Moment) {
        let Some(member) = spec::member(&self.pod, name) else { return };
        let Some(rules) = probe_of(member.container, kind).map(Rules::of) else { return };
        let current = self.view().history(member).current;
        // A result that comes after its container has gone says nothing about the next one.
        let Some(started) = current.filter(|run| run.id.as_ref() == Some(id)).and_then(|run| run.running()) else {
            return;
        };
        let path = Some(member.field_path());
        let fresh = Tracker::new(kind, &rules, Moment::from_seconds(started));
        let tracker = self.memory.tracker_mut(name, fresh, kind, id);
        let message = match outcome {
            probe::Outcome::Good => {
                tracker.record(true, &rules, now);
                return;
            }
            probe::Outcome::Warned(message) => {
                tracker.record(true, &rules, now);
                let message = format!("{kind} probe warning: {message}");
                return self.shared.events.pod(&self.key, path, true, "ProbeWarning", message);
            }
            probe::Outcome::Bad(message) => {
                if !tracker.record(false, &rules, now) {
                    return;
                }
                format!("{kind} probe failed: {message}")
            }
            probe::Outcome::Error(message) => {
                tracker.skip(&rules, now);
                format!("{kind} probe errored and resulted in unknown state: {message}")
            }
        };
        self.shared.events.pod(&self.key, path, true, "Unhealthy", message);
    }

    fn report_failed(&mut self, error: &kube::Error, now: Moment) {
        match error {
            // The watch will tell: it is gone, or there is a newer one.
            kube::Error::Api(status) if status.code == 404 => self.report_at = Some(now.plus(REPORT_RETRY)),
            kube::Error::Api(status) if status.code == 409 => self.report_at = Some(now.plus(REPORT_RETRY / 10)),
            error => {
                tracing::warn!(%error, pod = self.key.name, namespace = self.key.namespace, "cannot report a pod's status");
                self.report_at = Some(now.plus(REPORT_RETRY));
            }
        }
    }
}

fn sources(key: &PodKey, pod: &Pod) -> BTreeSet<Source> {
    let (config_maps, secrets) = volumes::references(pod);
    let source = |kind| move |name| Source { kind, namespace: key.namespace.clone(), name };
    let config_maps = config_maps.into_iter().map(source(SourceKind::ConfigMap));
    config_maps.chain(secrets.into_iter().map(source(SourceKind::Secret))).collect()
}

/// Whether `a` is at least as new as `b`; resource versions are comparable numbers since 1.35 (KEP-5504).
fn newer(a: &Pod, b: &Pod) -> bool {
    let version = |pod: &Pod| pod.metadata.resource_version.as_deref().and_then(|version| version.parse::<u64>().ok());
    match (version(a), version(b)) {
        (Some(a), Some(b)) => a >= b,
        _ => true,
    }
}
