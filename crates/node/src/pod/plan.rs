//! What to do next for a pod: a pure function from what is wanted, seen and remembered to actions.
//!
//! Level-triggered: it is asked again after every change and names each action as long as it is needed and not under
//! way. Not responsible for carrying them out (`actions`) nor for what the API is told (`status`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use pod_runtime::{ContainerId, ContainerState, SandboxId};

use super::memory::{FailureKind, probe_of};
use super::observed::Run;
use super::spec::{self, Member, PodKey, Role};
use super::view::{Ending, View};
use crate::clock::Moment;
use crate::probe::{Kind, Rules, Tracker, Verdict};

/// One thing to do. Actions of one decision are independent of each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    PrepareVolumes,
    /// Brings the files of volumes up to date.
    RefreshVolumes,
    /// Those of a pod that has ended: nothing starts in it any more.
    RemoveVolumes,
    RunSandbox(SandboxId),
    /// Ends what still runs in it, and its network.
    StopSandbox(SandboxId),
    RemoveSandbox(SandboxId),
    /// Gets the image, creates and starts the container.
    Launch {
        container: String,
        attempt: u32,
        may_pull: bool,
        /// When the run before ended, if there was one.
        after: Option<Moment>,
    },
    Stop {
        id: ContainerId,
        container: String,
        /// How long it may take, `preStop` included.
        grace: Duration,
        /// The whole time that this is what's left of: a shorter one is a new order.
        whole: Duration,
        why: StopReason,
        /// False when an earlier stop has run the hook.
        hook: bool,
    },
    /// Forgets a run that no status and no log reader needs any more.
    Remove(ContainerId),
    Probe {
        container: String,
        id: ContainerId,
        kind: Kind,
    },
    /// Leaves nothing of the pod: its sandbox, its files, its object.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    PodEnds,
    Liveness,
    Startup,
    /// It runs another image than it should by now.
    Changed,
}

/// What an action is about: of two with the same key only one is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Volumes,
    Sandbox,
    Launch(String),
    /// With the whole grace in seconds: a shorter one is a new order.
    Stop(ContainerId, u64),
    Remove(ContainerId),
    Probe(String, Kind),
    Finish,
}

impl Action {
    pub fn key(&self) -> Key {
        match self {
            Action::PrepareVolumes | Action::RefreshVolumes | Action::RemoveVolumes => Key::Volumes,
            Action::RunSandbox(_) | Action::StopSandbox(_) | Action::RemoveSandbox(_) => Key::Sandbox,
            Action::Launch { container, .. } => Key::Launch(container.clone()),
            Action::Stop { id, whole, why: StopReason::PodEnds, .. } => Key::Stop(id.clone(), whole.as_secs()),
            Action::Stop { id, .. } => Key::Stop(id.clone(), u64::MAX),
            Action::Remove(id) => Key::Remove(id.clone()),
            Action::Probe { container, kind, .. } => Key::Probe(container.clone(), *kind),
            Action::Finish => Key::Finish,
        }
    }
}

/// Something to tell in an Event, once per `key`.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub key: String,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    pub field_path: Option<String>,
}

/// The reason of a pod that the node has thrown out, as kubelet names it.
pub const EVICTED: &str = "Evicted";

/// What `decide` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub notices: Vec<Notice>,
    /// When to decide again although nothing changed.
    pub wake_at: Option<Moment>,
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let mut planner = Planner { view, decision: Decision::default() };
    match view.ending() {
        Some(ending) => planner.end(ending),
        None => planner.run(),
    }
    planner.collect();
    planner.decision
}

struct Planner<'v, 'a> {
    view: &'v View<'a>,
    decision: Decision,
}

impl<'a> Planner<'_, 'a> {
    fn act(&mut self, action: Action) {
        if !self.view.in_flight(&action.key()) {
            self.decision.actions.push(action);
        }
    }

    fn wake(&mut self, at: Moment) {
        self.decision.wake_at = Some(self.decision.wake_at.map_or(at, |known| known.min(at)));
    }

    fn notice(&mut self, notice: Notice) {
        if !self.view.memory.announced.contains(&notice.key) {
            self.decision.notices.push(notice);
        }
    }

    fn run(&mut self) {
        let view = self.view;
        if let Some(deadline) = view.deadline() {
            self.wake(deadline);
        }
        if !view.memory.volumes.done {
            match view.memory.volumes.due(view.now) {
                Some(at) => self.wake(at),
                None => self.act(Action::PrepareVolumes),
            }
            return;
        }
        if view.memory.volumes_stale {
            match view.memory.refresh.due(view.now) {
                Some(at) => self.wake(at),
                None => self.act(Action::RefreshVolumes),
            }
        }
        match &view.observed.sandbox {
            Some(sandbox) if sandbox.ready => self.containers(),
            Some(sandbox) => {
                let key = format!("sandbox-changed/{}", sandbox.spec.id.0);
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                self.notice(Notice { key, warning: false, reason: "SandboxChanged", message, field_path: None });
                self.sandbox_step(Action::RemoveSandbox(sandbox.spec.id.clone()));
            }
            None => {
                let id = PodKey::of(view.pod).sandbox(view.memory.next_sandbox);
                self.sandbox_step(Action::RunSandbox(id));
            }
        }
    }

    fn sandbox_step(&mut self, action: Action) {
        match self.view.memory.sandbox.due(self.view.now) {
            Some(at) => self.wake(at),
            None => self.act(action),
        }
    }

    fn containers(&mut self) {
        let behind = self.view.mains_started();
        for member in spec::init_members(self.view.pod) {
            match member.role {
                Role::Sidecar => self.keep_running(member),
                _ if behind => {}
                _ => self.run_once(member),
            }
            if !behind && !self.init_step_done(member) {
                return;
            }
        }
        for member in spec::main_members(self.view.pod) {
            self.keep_running(member);
        }
    }

    /// An init container counts as done only for the sandbox it ran in: a new sandbox initialises anew.
    fn init_step_done(&self, member: Member<'_>) -> bool {
        self.view.runs_here(member) && self.view.init_done(member)
    }

    fn run_once(&mut self, member: Member<'_>) {
        let here = self.view.runs_here(member);
        let history = self.view.history(member);
        match &history.current {
            Some(run) if here && run.exit().is_some_and(|exit| exit.code == 0) => {}
            Some(run) if !here => self.launch(member, run.attempt.saturating_add(1), None),
            _ => self.keep_running(member),
        }
    }

    fn keep_running(&mut self, member: Member<'_>) {
        let history = self.view.history(member);
        let Some(run) = &history.current else { return self.launch(member, 0, None) };
        match &run.state {
            ContainerState::Running { .. } if member.is_changed(&run.image) => self.replace(member, run),
            ContainerState::Running { .. } => self.probes(member, run, true),
            ContainerState::Created => self.launch(member, run.attempt, None),
            // At once and whatever the policy is: it didn't end by itself.
            ContainerState::Exited(_) if self.view.replaced(run) => {
                if !self.view.launching(member) {
                    self.launch(member, run.attempt.saturating_add(1), None);
                }
            }
            ContainerState::Exited(exit) if member.restarts(self.view.policy(), exit.code) => {
                self.restart(member, run.attempt, Moment::from_seconds(exit.finished_at));
            }
            ContainerState::Exited(_) => {}
        }
    }

    fn replace(&mut self, member: Member<'_>, run: &Run) {
        if let Some(id) = run.id.as_ref().filter(|_| !self.view.launching(member)) {
            self.stop(id, member.container, spec::grace(self.view.pod), StopReason::Changed);
        }
    }

    fn restart(&mut self, member: Member<'_>, attempt: u32, ended: Moment) {
        if self.view.launching(member) {
            return;
        }
        let next = attempt.saturating_add(1);
        let memory = self.view.memory.container(member.name());
        let until = memory.and_then(|memory| memory.crash.until(ended));
        match until.filter(|until| *until > self.view.now) {
            // A failed start of the next attempt has its own rule for trying again.
            Some(until) if memory.is_none_or(|memory| memory.next_try(next).is_none()) => {
                let key = PodKey::of(self.view.pod);
                self.notice(Notice {
                    key: format!("crash/{}/{attempt}", member.name()),
                    warning: true,
                    reason: "BackOff",
                    message: format!("Back-off restarting failed container {} in pod {}", member.name(), key.long()),
                    field_path: Some(member.field_path()),
                });
                self.wake(until);
            }
            _ => self.launch(member, next, Some(ended)),
        }
    }

    fn launch(&mut self, member: Member<'_>, attempt: u32, after: Option<Moment>) {
        let container = member.name().to_owned();
        let memory = self.view.memory.container(&container);
        let next = memory.and_then(|memory| memory.next_try(attempt));
        self.pull_notice(member, attempt);
        match next {
            Some(next) if next.at > self.view.now => self.wake(next.at),
            // The back-off counts this attempt already.
            Some(next) => self.act(Action::Launch { container, attempt, may_pull: next.may_pull, after: None }),
            None => self.act(Action::Launch { container, attempt, may_pull: true, after }),
        }
    }

    fn pull_notice(&mut self, member: Member<'_>, attempt: u32) {
        let memory = self.view.memory.container(member.name());
        let Some(failure) = memory.and_then(|memory| memory.failure.as_ref()) else { return };
        if failure.kind != FailureKind::ImagePull || failure.attempt != attempt {
            return;
        }
        let shown = failure.at.plus(super::memory::PULL_ERROR_SHOWN);
        if shown > self.view.now {
            return self.wake(shown);
        }
        self.notice(Notice {
            key: format!("pull/{}/{}", member.name(), failure.at.millis()),
            warning: false,
            reason: "BackOff",
            message: format!("Back-off pulling image {:?}", member.container.image.as_deref().unwrap_or("")),
            field_path: Some(member.field_path()),
        });
    }

    /// Probes that are due; `all` false leaves only readiness, as for a pod that ends.
    fn probes(&mut self, member: Member<'_>, run: &Run, all: bool) {
        let (Some(started_at), Some(id)) = (run.running(), &run.id) else { return };
        if self.view.launching(member) {
            return;
        }
        let started = self.view.started(member, run);
        for kind in Kind::ALL {
            let Some(probe) = probe_of(member.container, kind) else { continue };
            let wanted = match kind {
                Kind::Startup => all && !started,
                Kind::Readiness => started,
                Kind::Liveness => all && started,
            };
            if wanted {
                self.probe(member, id, kind, probe, Moment::from_seconds(started_at));
            }
        }
    }

    fn probe(&mut self, member: Member<'_>, id: &ContainerId, kind: Kind, probe: &Probe, started: Moment) {
        let fresh = Tracker::new(kind, &Rules::of(probe), started);
        let tracker = *self.view.memory.tracker(member.name(), kind, id).unwrap_or(&fresh);
        let failed = tracker.verdict() == Verdict::Failed;
        if failed && kind != Kind::Readiness {
            let why = if kind == Kind::Liveness { StopReason::Liveness } else { StopReason::Startup };
            let grace = match probe.termination_grace_period_seconds {
                Some(seconds) => Duration::from_secs(seconds.max(1).unsigned_abs()),
                None => spec::grace(self.view.pod),
            };
            return self.stop(id, member.container, grace, why);
        }
        if tracker.next() > self.view.now {
            self.wake(tracker.next());
        } else {
            let (container, id) = (member.name().to_owned(), id.clone());
            self.act(Action::Probe { container, id, kind });
        }
    }

    fn stop(&mut self, id: &ContainerId, container: &Container, grace: Duration, why: StopReason) {
        self.stop_within(id, container, grace, grace, why);
    }

    /// What is `left` of the `whole` grace.
    fn stop_within(
        &mut self,
        id: &ContainerId,
        container: &Container,
        left: Duration,
        whole: Duration,
        why: StopReason,
    ) {
        if let Some(at) = self.view.memory.teardown.due(self.view.now) {
            return self.wake(at);
        }
        let earlier = self.view.memory.in_flight.iter().any(|key| matches!(key, Key::Stop(known, _) if known == id));
        let (id, container) = (id.clone(), container.name.clone());
        self.act(Action::Stop { id, container, grace: left, whole, why, hook: !earlier });
    }

    /// Main and init containers first, sidecars after them in reverse order, then the network, then the rest.
    fn end(&mut self, ending: Ending) {
        self.keep_readiness();
        let busy = |key: &Key| matches!(key, Key::Volumes | Key::Sandbox | Key::Launch(_) | Key::Finish);
        if self.view.memory.in_flight.iter().any(busy) {
            return;
        }
        let running: Vec<(Member<'a>, ContainerId)> = spec::members(self.view.pod)
            .filter_map(|member| {
                let run = self.view.history(member).current?;
                run.running()?;
                Some((member, run.id?))
            })
            .collect();
        let grace = match ending {
            // The node can't wait for it, as with kubelet's hard limits.
            Ending::Failed => Duration::from_secs(1),
            _ => spec::grace(self.view.pod),
        };
        let mut first = running.iter().filter(|(member, _)| member.role != Role::Sidecar).peekable();
        if first.peek().is_some() {
            for (member, id) in first {
                self.stop(id, member.container, grace, StopReason::PodEnds);
            }
        } else if let Some((member, id)) = running.last() {
            self.stop_within(id, member.container, self.left(ending, grace), grace, StopReason::PodEnds);
        } else {
            self.take_down(ending);
        }
    }

    /// What the containers before it have left a sidecar of the pod's grace; a little in any case, as kubelet has it.
    fn left(&self, ending: Ending, grace: Duration) -> Duration {
        const LEAST: Duration = Duration::from_secs(2);
        let view = self.view;
        let deletion = view.pod.metadata.deletion_timestamp.as_ref().filter(|_| ending == Ending::Deleted);
        // The API counts from the deletion, whichever agent is asked; of the rest only this one knows.
        let until = deletion.map(Moment::of).or_else(|| view.memory.ending_since.map(|since| since.plus(grace)));
        until.map_or(grace, |until| until.since(view.now)).clamp(LEAST.min(grace), grace)
    }

    fn take_down(&mut self, ending: Ending) {
        let view = self.view;
        if let Some(at) = view.memory.teardown.due(view.now) {
            return self.wake(at);
        }
        match view.observed.ready_sandbox() {
            Some(sandbox) => self.act(Action::StopSandbox(sandbox.spec.id.clone())),
            None if ending == Ending::Deleted => self.act(Action::Finish),
            None => self.give_back_when_told(ending),
        }
    }

    /// The API is told first how the containers ended, which nobody knows when they are gone. But where the disk is full
    /// the API may be what can't write.
    fn give_back_when_told(&mut self, ending: Ending) {
        const LONGEST: Duration = Duration::from_secs(10);
        let overdue = self.view.memory.ending_since.map(|since| since.plus(LONGEST));
        match overdue {
            _ if spec::is_terminal(self.view.pod) => self.give_back(),
            Some(overdue) if ending == Ending::Failed && overdue <= self.view.now => self.give_back(),
            Some(overdue) if ending == Ending::Failed => self.wake(overdue),
            _ => {}
        }
    }

    /// A pod that has ended for good keeps its logs and its place in the API; what it wrote is given back to the node.
    fn give_back(&mut self) {
        let view = self.view;
        if !view.memory.volumes_removed {
            return self.act(Action::RemoveVolumes);
        }
        // An evicted pod was evicted for what it has written: its containers' layers count too.
        let reported = view.reported().and_then(|status| status.reason.as_deref());
        let evicted = reported.or(view.memory.failed.as_ref().map(|verdict| verdict.reason)) == Some(EVICTED);
        if let Some(sandbox) = view.observed.sandbox.as_ref().filter(|_| evicted) {
            self.sandbox_step(Action::RemoveSandbox(sandbox.spec.id.clone()));
        }
    }

    /// A pod that ends goes on being asked whether it's ready: its endpoints may still serve.
    fn keep_readiness(&mut self) {
        for member in spec::members(self.view.pod).filter(|member| member.role != Role::Init) {
            if let Some(run) = &self.view.history(member).current {
                self.probes(member, run, false);
            }
        }
    }

    /// Of each container the present run and the one before it stay.
    fn collect(&mut self) {
        for member in spec::members(self.view.pod) {
            let mut runs: Vec<_> =
                self.view.observed.containers.iter().filter(|container| container.name == member.name()).collect();
            runs.sort_by_key(|run| std::cmp::Reverse(run.attempt));
            for old in runs.into_iter().skip(2).filter(|run| !matches!(run.state, ContainerState::Running { .. })) {
                self.act(Action::Remove(old.id.clone()));
            }
        }
    }
}
