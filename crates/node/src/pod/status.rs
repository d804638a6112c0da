//! What the API is told about a pod: a pure function of the same view that decisions are made from.
//!
//! Not responsible for sending it. Fields and conditions that belong to others (readiness gates, `PodScheduled`,
//! `qosClass`, …) are kept as last reported.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{ContainerState, PodCondition, PodStatus};
use pod_runtime::{Exit, STATUS_UNKNOWN};

use super::memory::{FailureKind, PULL_ERROR_SHOWN};
use super::observed::{History, ID_SCHEME, Run, reported_container};
use super::spec::{self, Member, PodKey, Role};
use super::view::View;
use crate::clock::{Moment, time_of};

/// The status of the pod.
pub fn status(view: &View<'_>, node_ips: &[IpAddr]) -> PodStatus {
    let mut status = view.reported().cloned().unwrap_or_default();
    let phase = phase(view);
    status.observed_generation = view.pod.metadata.generation.or(status.observed_generation);
    status.start_time = status.start_time.take().or_else(|| Some(view.now.time()));
    status.host_ip = node_ips.first().map(ToString::to_string);
    status.host_ips = Some(node_ips.iter().map(|ip| core::HostIP { ip: ip.to_string() }).collect());
    addresses(view, node_ips, &mut status);
    let inits: Vec<_> = spec::init_members(view.pod).map(|member| container(view, member, phase)).collect();
    status.init_container_statuses = if inits.is_empty() { None } else { Some(inits) };
    status.container_statuses = Some(spec::main_members(view.pod).map(|m| container(view, m, phase)).collect());
    if view.deadline_passed() && phase == Phase::Failed && !spec::is_terminal(view.pod) {
        status.reason = Some("DeadlineExceeded".to_owned());
        status.message = Some("Pod was active on the node longer than the specified deadline".to_owned());
    }
    if let Some(verdict) =
        view.memory.failed.as_ref().filter(|_| phase == Phase::Failed && !spec::is_terminal(view.pod))
    {
        status.reason = Some(verdict.reason.to_owned());
        status.message = Some(verdict.message.clone());
    }
    status.phase = Some(phase.text().to_owned());
    conditions(view, phase, &mut status);
    status
}

/// The pod's addresses as soon as its sandbox has them; kept when the sandbox is gone, as kubelet does.
fn addresses(view: &View<'_>, node_ips: &[IpAddr], status: &mut PodStatus) {
    let addresses: Vec<IpAddr> = if spec::host_network(view.pod) {
        node_ips.to_vec()
    } else {
        view.observed.ready_sandbox().map(|sandbox| sandbox.addresses.clone()).unwrap_or_default()
    };
    if view.observed.ready_sandbox().is_some() && !addresses.is_empty() {
        status.pod_ip = addresses.first().map(ToString::to_string);
        status.pod_ips = Some(addresses.iter().map(|ip| core::PodIP { ip: ip.to_string() }).collect());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    fn text(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    fn terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

fn phase(view: &View<'_>) -> Phase {
    match view.reported().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Phase::Succeeded,
        Some("Failed") => return Phase::Failed,
        _ => {}
    }
    let exit_codes: Vec<Option<i32>> = spec::main_members(view.pod)
        .map(|m| view.history(m).current.and_then(|run| run.exit().map(|e| e.code)))
        .collect();
    let ended = view.ending().is_some() && !view.observed.any_running() && !busy(view);
    if ended {
        let failed = view.init_failed() || view.deadline_passed() || view.memory.failed.is_some();
        let good = !failed && exit_codes.iter().all(|code| *code == Some(0));
        return if good { Phase::Succeeded } else { Phase::Failed };
    }
    let histories: Vec<History> = spec::main_members(view.pod).map(|member| view.history(member)).collect();
    if histories.iter().all(|history| history.current.as_ref().is_some_and(has_begun)) && view.initialized() {
        Phase::Running
    } else {
        Phase::Pending
    }
}

/// A start under way may still bring a container.
fn busy(view: &View<'_>) -> bool {
    spec::members(view.pod).any(|member| view.launching(member))
}

fn has_begun(run: &Run) -> bool {
    run.running().is_some() || run.exit().is_some()
}

fn container(view: &View<'_>, member: Member<'_>, phase: Phase) -> core::ContainerStatus {
    let history = view.history(member);
    let reported = view.reported().and_then(|status| reported_container(status, member.name()));
    let mut status = core::ContainerStatus {
        name: member.name().to_owned(),
        image: member.container.image.clone().unwrap_or_default(),
        ..Default::default()
    };
    let Some(run) = &history.current else {
        let state = match phase.terminal() && view.initialized() {
            true => ContainerState { terminated: Some(never_ran()), ..Default::default() },
            false => waiting(view, member, None),
        };
        (status.state, status.last_state) = (Some(state), Some(ContainerState::default()));
        status.started = Some(false);
        return status;
    };
    if !run.image.is_empty() {
        status.image = run.image.clone();
    }
    status.image_id = run.image_id.clone();
    status.container_id = run.id.as_ref().map(|id| format!("{ID_SCHEME}{}", id.0));
    status.restart_count = i32::try_from(run.attempt).unwrap_or(i32::MAX);
    status.last_state = Some(last_state(history.previous.as_ref()));
    status.started = Some(view.started(member, run));
    status.ready = match member.role {
        Role::Init => run.exit().is_some_and(|exit| exit.code == 0),
        _ => view.ready(member, run),
    };
    status.state = Some(match &run.state {
        pod_runtime::ContainerState::Running { started_at } => ContainerState {
            running: Some(core::ContainerStateRunning { started_at: Some(time_of(*started_at)) }),
            ..Default::default()
        },
        pod_runtime::ContainerState::Created => waiting(view, member, Some(run)),
        pod_runtime::ContainerState::Exited(exit) => {
            if will_restart(view, member, exit) {
                status.last_state = Some(terminated(run, exit));
                waiting(view, member, Some(run))
            } else {
                terminated(run, exit)
            }
        }
    });
    if let Some(reported) = reported {
        status.stop_signal = reported.stop_signal.clone();
    }
    status
}

/// A container that ended shows as terminated, unless its next start waits for something: then it shows why.
fn will_restart(view: &View<'_>, member: Member<'_>, exit: &Exit) -> bool {
    if view.ending().is_some() || !member.restarts(view.policy(), exit.code) {
        return false;
    }
    let memory = view.memory.container(member.name());
    let backing_off = memory.and_then(|memory| memory.crash.until(Moment::from_seconds(exit.finished_at)));
    exit.reason == STATUS_UNKNOWN
        || (!view.launching(member) && backing_off.is_some_and(|until| until > view.now))
        || memory.is_some_and(|memory| memory.failure.is_some())
}

fn never_ran() -> core::ContainerStateTerminated {
    core::ContainerStateTerminated {
        exit_code: 137,
        reason: Some(STATUS_UNKNOWN.to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..Default::default()
    }
}

fn waiting(view: &View<'_>, member: Member<'_>, run: Option<&Run>) -> ContainerState {
    let (reason, message) = waiting_reason(view, member, run);
    ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: Some(reason), message }),
        ..Default::default()
    }
}

fn waiting_reason(view: &View<'_>, member: Member<'_>, run: Option<&Run>) -> (String, Option<String>) {
    let memory = view.memory.container(member.name());
    if let Some(failure) = memory.and_then(|memory| memory.failure.as_ref()) {
        let shown = failure.kind != FailureKind::ImagePull || view.now < failure.at.plus(PULL_ERROR_SHOWN);
        if !shown {
            let image = member.container.image.as_deref().unwrap_or("");
            let why = failure.kind.reason();
            let message = format!("Back-off pulling image {image:?}: {why}: {}", failure.message);
            return ("ImagePullBackOff".to_owned(), Some(message));
        }
        return (failure.kind.reason().to_owned(), Some(failure.message.clone()));
    }
    let exit = run.and_then(Run::exit);
    let until = exit.and_then(|exit| {
        let ended = Moment::from_seconds(exit.finished_at);
        let crash = memory?.crash;
        crash.until(ended).filter(|until| *until > view.now).and(crash.delay(ended))
    });
    if let (Some(delay), false) = (until, view.launching(member)) {
        let pod = PodKey::of(view.pod).long();
        let delay = duration_text(delay.as_secs());
        let message = format!("back-off {delay} restarting failed container={} pod={pod}", member.name());
        return ("CrashLoopBackOff".to_owned(), Some(message));
    }
    let initializing = member.role == Role::Main && !view.initialized();
    (if initializing { "PodInitializing" } else { "ContainerCreating" }.to_owned(), None)
}

/// Seconds as Go writes a duration: `40s`, `1m20s`, `5m0s`.
fn duration_text(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn last_state(previous: Option<&Run>) -> ContainerState {
    match previous.and_then(|run| Some((run, run.exit()?))) {
        Some((run, exit)) => terminated(run, exit),
        None => ContainerState::default(),
    }
}

fn terminated(run: &Run, exit: &Exit) -> ContainerState {
    let time = |seconds: i64| if seconds == 0 { None } else { Some(time_of(seconds)) };
    let terminated = core::ContainerStateTerminated {
        container_id: run.id.as_ref().map(|id| format!("{ID_SCHEME}{}", id.0)),
        exit_code: exit.code,
        signal: exit.signal,
        started_at: time(exit.started_at),
        finished_at: time(exit.finished_at),
        reason: Some(exit.reason.clone()).filter(|reason| !reason.is_empty()),
        message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn conditions(view: &View<'_>, phase: Phase, status: &mut PodStatus) {
    let known = status.conditions.take().unwrap_or_default();
    let containers = containers_ready(view, phase);
    let ready = pod_ready(view, &containers, &known);
    let yes = |value: bool| Truth { value, reason: None, message: None };
    let ours = [
        ("PodReadyToStartContainers", yes(view.observed.ready_sandbox().is_some())),
        ("Initialized", initialized(view, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", yes(true)),
    ];
    let mut conditions: Vec<PodCondition> =
        known.iter().filter(|c| !ours.iter().any(|(name, _)| *name == c.type_)).cloned().collect();
    for (name, truth) in ours {
        let before = known.iter().find(|condition| condition.type_ == name);
        conditions.push(truth.condition(name, before, view));
    }
    status.conditions = Some(conditions);
}

/// A condition's value with its explanation.
#[derive(Clone, Debug)]
struct Truth {
    value: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Truth {
    fn condition(self, name: &str, before: Option<&PodCondition>, view: &View<'_>) -> PodCondition {
        let status = if self.value { "True" } else { "False" };
        let since =
            before.filter(|before| before.status == status).and_then(|before| before.last_transition_time.clone());
        PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: self.reason.map(str::to_owned),
            message: self.message,
            last_transition_time: since.or_else(|| Some(view.now.time())),
            last_probe_time: None,
            observed_generation: view.pod.metadata.generation,
        }
    }
}

fn finished(phase: Phase) -> Option<Truth> {
    let reason = match phase {
        Phase::Succeeded => "PodCompleted",
        Phase::Failed => "PodFailed",
        _ => return None,
    };
    Some(Truth { value: false, reason: Some(reason), message: None })
}

fn initialized(view: &View<'_>, phase: Phase) -> Truth {
    if phase == Phase::Succeeded {
        return Truth { value: true, reason: Some("PodCompleted"), message: None };
    }
    if view.initialized() {
        return Truth { value: true, reason: None, message: None };
    }
    let missing: Vec<_> =
        spec::init_members(view.pod).filter(|m| !view.init_done(*m)).map(|m| m.name().to_owned()).collect();
    let message = format!("containers with incomplete status: [{}]", missing.join(" "));
    Truth { value: false, reason: Some("ContainersNotInitialized"), message: Some(message) }
}

fn containers_ready(view: &View<'_>, phase: Phase) -> Truth {
    if let Some(truth) = finished(phase) {
        return truth;
    }
    let unready: Vec<_> = spec::members(view.pod)
        .filter(|member| member.role != Role::Init)
        .filter(|member| !view.history(*member).current.is_some_and(|run| view.ready(*member, &run)))
        .map(|member| member.name().to_owned())
        .collect();
    if unready.is_empty() {
        return Truth { value: true, reason: None, message: None };
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Truth { value: false, reason: Some("ContainersNotReady"), message: Some(message) }
}

fn pod_ready(view: &View<'_>, containers: &Truth, known: &[PodCondition]) -> Truth {
    if !containers.value {
        return containers.clone();
    }
    for gate in spec::spec(view.pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        let message = match known.iter().find(|condition| &condition.type_ == name) {
            Some(condition) if condition.status == "True" => continue,
            Some(condition) => {
                format!("the status of pod readiness gate {name:?} is not \"True\", but {}", condition.status)
            }
            None => format!("corresponding condition of pod readiness gate {name:?} does not exist."),
        };
        return Truth { value: false, reason: Some("ReadinessGatesNotReady"), message: Some(message) };
    }
    Truth { value: true, reason: None, message: None }
}

/// A merge patch that turns `before` into `after`; none when they are the same.
pub fn patch(before: Option<&PodStatus>, after: &PodStatus) -> Option<serde_json::Value> {
    use serde_json::{Map, Value};
    let object = |status: Option<&PodStatus>| match status.map(serde_json::to_value) {
        Some(Ok(Value::Object(fields))) => fields,
        _ => Map::new(),
    };
    let (before, after) = (object(before), object(Some(after)));
    let mut changed: Map<String, Value> = after
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        changed.insert(key.clone(), Value::Null);
    }
    if changed.is_empty() { None } else { Some(Value::Object(changed)) }
}
