//! What is known of a pod's containers: the runtime's list, completed by what was last reported to the API.
//!
//! Not responsible for asking the runtime (the worker does) nor for what follows from the facts (`plan`, `status`).

use k8s_openapi::api::core::v1 as core;
use pod_runtime::{ContainerId, ContainerState, ContainerStatus, Exit, STATUS_UNKNOWN, SandboxStatus};

use super::spec::sandbox_attempt;

/// The scheme of `containerID` in a pod's status.
pub const ID_SCHEME: &str = "portolan://";

/// The runtime's state of one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The newest of the pod's sandboxes.
    pub sandbox: Option<SandboxStatus>,
    /// Containers of that sandbox.
    pub containers: Vec<ContainerStatus>,
}

impl Observed {
    /// The sandbox that containers can be started in.
    pub fn ready_sandbox(&self) -> Option<&SandboxStatus> {
        self.sandbox.as_ref().filter(|sandbox| sandbox.ready)
    }

    /// The attempt that the next sandbox gets.
    pub fn next_sandbox(&self) -> u32 {
        self.sandbox.as_ref().map_or(0, |sandbox| sandbox_attempt(&sandbox.spec.id).saturating_add(1))
    }

    /// Whether any container is running.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. }))
    }
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// None when only the API remembers it.
    pub id: Option<ContainerId>,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub state: ContainerState,
}

impl Run {
    pub fn running(&self) -> Option<i64> {
        match self.state {
            ContainerState::Running { started_at } => Some(started_at),
            _ => None,
        }
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// The latest run of a container and the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    pub current: Option<Run>,
    pub previous: Option<Run>,
}

impl History {
    /// The attempt that the next start gets.
    pub fn next_attempt(&self) -> u32 {
        self.current.as_ref().map_or(0, |run| run.attempt.saturating_add(1))
    }
}

/// A container's history. What the runtime lists wins; what it has lost (a node that went down) is taken from the
/// status last reported, in which a container that was running counts as killed.
pub fn history(name: &str, observed: &Observed, reported: Option<&core::PodStatus>) -> History {
    let mut runs: Vec<Run> = observed.containers.iter().filter(|c| c.name == name).map(run_of).collect();
    runs.sort_by_key(|run| run.attempt);
    let current = runs.pop();
    let previous = runs.pop();
    let reported = reported.and_then(|status| reported_container(status, name));
    match (current, reported) {
        (Some(current), reported) => {
            let previous = previous.or_else(|| before(reported?, &current));
            History { current: Some(current), previous }
        }
        (None, Some(reported)) => from_report(reported),
        (None, None) => History::default(),
    }
}

fn run_of(status: &ContainerStatus) -> Run {
    Run {
        id: Some(status.id.clone()),
        attempt: status.attempt,
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        state: status.state.clone(),
    }
}

pub fn reported_container<'a>(status: &'a core::PodStatus, name: &str) -> Option<&'a core::ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|container| container.name == name)
}

fn from_report(reported: &core::ContainerStatus) -> History {
    let attempt = u32::try_from(reported.restart_count).unwrap_or(0);
    let last = reported.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let run = |attempt, id: Option<&str>, exit| Run {
        id: id.and_then(|id| id.strip_prefix(ID_SCHEME)).map(|id| ContainerId(id.to_owned())),
        attempt,
        image: reported.image.clone(),
        image_id: reported.image_id.clone(),
        state: ContainerState::Exited(exit),
    };
    let state = reported.state.clone().unwrap_or_default();
    if let Some(running) = state.running {
        let lost = Exit {
            code: 137,
            signal: None,
            started_at: running.started_at.map_or(0, |t| t.0.as_second()),
            finished_at: 0,
            reason: STATUS_UNKNOWN.to_owned(),
            message: "The container could not be located when the pod was looked at again".to_owned(),
        };
        let current = run(attempt, reported.container_id.as_deref(), lost);
        let previous = last.map(|last| run(attempt.saturating_sub(1), last.container_id.as_deref(), exit_of(last)));
        return History { current: Some(current), previous };
    }
    if let Some(terminated) = &state.terminated {
        let current = run(attempt, terminated.container_id.as_deref(), exit_of(terminated));
        let previous = last.map(|last| run(attempt.saturating_sub(1), last.container_id.as_deref(), exit_of(last)));
        return History { current: Some(current), previous };
    }
    let current = last.map(|last| run(attempt, last.container_id.as_deref(), exit_of(last)));
    History { current, previous: None }
}

/// The run before the only one that the runtime knows, if the report has it. A report made when the next run was there and
/// not yet running counts that one already, so the run it remembers is at most the one before.
fn before(reported: &core::ContainerStatus, current: &Run) -> Option<Run> {
    let latest = current.attempt.checked_sub(1)?;
    let known = from_report(reported);
    let other = |run: &Run| if run.id.is_some() { run.id != current.id } else { run.attempt < current.attempt };
    let run = [known.current, known.previous].into_iter().flatten().find(other)?;
    Some(Run { attempt: run.attempt.min(latest), ..run })
}

fn exit_of(terminated: &core::ContainerStateTerminated) -> Exit {
    Exit {
        code: terminated.exit_code,
        signal: terminated.signal,
        started_at: terminated.started_at.as_ref().map_or(0, |t| t.0.as_second()),
        finished_at: terminated.finished_at.as_ref().map_or(0, |t| t.0.as_second()),
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_runtime::SandboxId;
    use serde_json::json;

    fn listed(attempt: u32, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: ContainerId(format!("c{attempt}")),
            sandbox: SandboxId("u1-0".into()),
            name: "m".into(),
            attempt,
            image: "img".into(),
            image_id: "sha256:1".into(),
            state,
            log_path: "/log".into(),
            annotations: Default::default(),
        }
    }

    fn status(container: serde_json::Value) -> core::PodStatus {
        serde_json::from_value(json!({"containerStatuses": [container]})).unwrap()
    }

    #[test]
    fn the_runtime_wins_and_the_newest_attempt_is_current() {
        let observed = Observed {
            sandbox: None,
            containers: vec![listed(1, ContainerState::Running { started_at: 5 }), listed(0, ContainerState::Created)],
        };
        let history = history("m", &observed, None);
        assert_eq!(history.current.unwrap().attempt, 1);
        assert_eq!(history.previous.unwrap().attempt, 0);
    }

    #[test]
    fn a_container_that_ran_and_is_gone_counts_as_killed() {
        let status = status(json!({"name": "m", "image": "img", "imageID": "x", "ready": true, "restartCount": 2,
            "containerID": "portolan://abc", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}));
        let history = history("m", &Observed::default(), Some(&status));
        assert_eq!(history.next_attempt(), 3);
        let run = history.current.unwrap();
        assert_eq!((run.exit().unwrap().code, run.exit().unwrap().reason.as_str()), (137, STATUS_UNKNOWN));
        assert_eq!(run.id, Some(ContainerId("abc".into())));
    }

    #[test]
    fn waiting_after_a_crash_remembers_the_crash_and_waiting_from_the_start_is_nothing() {
        let crashed = status(json!({"name": "m", "image": "i", "imageID": "", "ready": false, "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:00:00Z"}}}));
        let known = history("m", &Observed::default(), Some(&crashed));
        assert_eq!((known.next_attempt(), known.current.unwrap().exit().unwrap().code), (5, 3));
        let fresh = status(json!({"name": "m", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}}}));
        assert_eq!(history("m", &Observed::default(), Some(&fresh)), History::default());
    }

    #[test]
    fn a_report_that_counts_a_run_before_it_runs_remembers_the_one_before() {
        let waiting = status(json!({"name": "m", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "ContainerCreating"}},
            "lastState": {"terminated": {"containerID": "portolan://c0", "exitCode": 137}}}));
        let observed =
            Observed { sandbox: None, containers: vec![listed(1, ContainerState::Running { started_at: 5 })] };
        let before = history("m", &observed, Some(&waiting)).previous.unwrap();
        assert_eq!((before.attempt, before.exit().unwrap().code), (0, 137));
        let running = status(json!({"name": "m", "image": "i", "imageID": "", "ready": true, "restartCount": 1,
            "containerID": "portolan://c1", "state": {"running": {}}}));
        assert_eq!(history("m", &observed, Some(&running)).previous, None, "a run is not the one before itself");
    }
}
