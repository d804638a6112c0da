//! What a pod's worker remembers between decisions: back-offs, probe results, what is under way.
//!
//! All of it may be lost with the agent: the next one starts over from what the runtime lists and the API reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Probe};
use pod_runtime::ContainerId;

use super::observed::{ID_SCHEME, reported_container};
use super::plan::Key;
use super::spec::members;
use crate::backoff::{self, Backoff};
use crate::clock::Moment;
use crate::probe::{Kind, Rules, Tracker, Verdict};

/// Why a container didn't come to run, by the reason its status shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    ImagePull,
    ImageNeverPull,
    InvalidImageName,
    ImageInspect,
    Config,
    Create,
    Run,
    PostStart,
}

impl FailureKind {
    pub fn reason(self) -> &'static str {
        match self {
            FailureKind::ImagePull => "ErrImagePull",
            FailureKind::ImageNeverPull => "ErrImageNeverPull",
            FailureKind::InvalidImageName => "InvalidImageName",
            FailureKind::ImageInspect => "ImageInspectError",
            FailureKind::Config => "CreateContainerConfigError",
            FailureKind::Create => "CreateContainerError",
            FailureKind::Run => "RunContainerError",
            FailureKind::PostStart => "PostStartHookError",
        }
    }
}

/// The last start of a container that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchFailure {
    pub attempt: u32,
    pub kind: FailureKind,
    pub message: String,
    /// When the whole start was tried, pull included.
    pub at: Moment,
    /// When it was last looked whether the image is on the node by now.
    pub checked: Moment,
}

/// How often a missing image is looked for on the node, whatever the back-off of pulls says: `image load` may bring it.
const IMAGE_CHECK: Duration = Duration::from_secs(2);
/// How often a container's configuration is tried again (a ConfigMap that doesn't exist yet).
const CONFIG_RETRY: Duration = Duration::from_secs(2);
/// How long a failed pull shows as such before it shows as backing off.
pub const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// One container's past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerMemory {
    pub crash: Backoff,
    pub pulls: Backoff,
    pub failure: Option<LaunchFailure>,
}

/// How a failed start is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTry {
    pub at: Moment,
    pub may_pull: bool,
}

impl ContainerMemory {
    /// When to start again after the remembered failure of this attempt; none when there is none.
    pub fn next_try(&self, attempt: u32) -> Option<NextTry> {
        let failure = self.failure.as_ref().filter(|failure| failure.attempt == attempt)?;
        let full = |at| NextTry { at, may_pull: true };
        Some(match failure.kind {
            FailureKind::ImagePull => {
                let pull = self.pulls.until(failure.at).unwrap_or(failure.at);
                let check = failure.checked.plus(IMAGE_CHECK);
                if check < pull { NextTry { at: check, may_pull: false } } else { full(pull) }
            }
            FailureKind::ImageNeverPull => NextTry { at: failure.checked.plus(IMAGE_CHECK), may_pull: false },
            FailureKind::Config | FailureKind::InvalidImageName | FailureKind::ImageInspect => {
                full(failure.at.plus(CONFIG_RETRY))
            }
            FailureKind::Create => full(self.crash.until(failure.at).unwrap_or(failure.at)),
            // Such a container has ended and backs off as one that crashed; this is for a runtime that says otherwise.
            FailureKind::Run | FailureKind::PostStart => full(failure.at.plus(backoff::INITIAL)),
        })
    }
}

/// A step that is repeated until it succeeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retry {
    pub done: bool,
    pub failure: Option<String>,
    pub at: Option<Moment>,
    delay: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(250);
    const SLOWEST: Duration = Duration::from_secs(8);

    pub fn succeeded(&mut self) {
        *self = Retry { done: true, ..Retry::default() };
    }

    pub fn failed(&mut self, message: String, now: Moment) {
        self.done = false;
        self.delay = if self.delay.is_zero() { Self::FIRST } else { (self.delay * 2).min(Self::SLOWEST) };
        self.failure = Some(message);
        self.at = Some(now.plus(self.delay));
    }

    /// When it may be tried; none is now.
    pub fn due(&self, now: Moment) -> Option<Moment> {
        self.at.filter(|at| *at > now)
    }
}

/// A probe's results, of the run they belong to.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub id: ContainerId,
    pub tracker: Tracker,
}

/// Why the node itself fails a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVerdict {
    /// As the status shows it: `Evicted`.
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub volumes: Retry,
    /// The objects that volumes are made from have changed, or may have.
    pub volumes_stale: bool,
    /// Bringing the volumes up to date.
    pub refresh: Retry,
    /// The volumes of a pod that has ended are gone.
    pub volumes_removed: bool,
    /// The node has failed the pod.
    pub failed: Option<NodeVerdict>,
    pub sandbox: Retry,
    /// The attempt of the next sandbox.
    pub next_sandbox: u32,
    pub teardown: Retry,
    pub containers: BTreeMap<String, ContainerMemory>,
    pub probes: BTreeMap<(String, Kind), Probed>,
    pub in_flight: BTreeSet<Key>,
    /// Runs that were ended because their container's image has changed.
    pub replaced: BTreeSet<ContainerId>,
    /// Notices given already.
    pub announced: BTreeSet<String>,
    /// When the pod began to end.
    pub ending_since: Option<Moment>,
}

impl Memory {
    /// Takes over what an earlier agent reported of containers that still run: ready stays ready, started stays
    /// started. `running` names the containers' present ids.
    pub fn adopt(pod: &Pod, running: &BTreeMap<String, ContainerId>, now: Moment) -> Self {
        let mut memory = Memory::default();
        let Some(status) = &pod.status else { return memory };
        for member in members(pod) {
            let Some(id) = running.get(member.name()) else { continue };
            let Some(reported) = reported_container(status, member.name()) else { continue };
            if reported.container_id.as_deref().and_then(|known| known.strip_prefix(ID_SCHEME)) != Some(&id.0) {
                continue;
            }
            let kinds = [(Kind::Startup, reported.started == Some(true)), (Kind::Readiness, reported.ready)];
            for (kind, passed) in kinds {
                if let (Some(probe), true) = (probe_of(member.container, kind), passed) {
                    let tracker = Tracker::adopted(kind, &Rules::of(probe), now);
                    memory.probes.insert((member.name().to_owned(), kind), Probed { id: id.clone(), tracker });
                }
            }
        }
        memory
    }

    pub fn container(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name)
    }

    pub fn container_mut(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// A start begins; `after` is when the run before it ended.
    pub fn launching(&mut self, name: &str, after: Option<Moment>, now: Moment) {
        if let Some(ended) = after {
            self.container_mut(name).crash.tried(ended, now);
        }
    }

    /// A start succeeded.
    pub fn launched(&mut self, name: &str) {
        let container = self.container_mut(name);
        container.failure = None;
        container.pulls = Backoff::default();
    }

    /// A start failed. A check that found the image still missing leaves the older failure as it is.
    pub fn launch_failed(&mut self, name: &str, failure: LaunchFailure, pulled: bool, now: Moment) {
        let container = self.container_mut(name);
        if let Some(known) = &mut container.failure
            && !pulled
            && known.attempt == failure.attempt
            && known.kind == failure.kind
        {
            known.checked = now;
            return;
        }
        match failure.kind {
            FailureKind::ImagePull => container.pulls.tried(failure.at, now),
            FailureKind::Create => container.crash.tried(failure.at, now),
            FailureKind::ImageNeverPull
            | FailureKind::InvalidImageName
            | FailureKind::ImageInspect
            | FailureKind::Config
            | FailureKind::Run
            | FailureKind::PostStart => {}
        }
        container.failure = Some(failure);
    }

    /// The results of a probe for this run of the container.
    pub fn tracker(&self, name: &str, kind: Kind, id: &ContainerId) -> Option<&Tracker> {
        self.probes.get(&(name.to_owned(), kind)).filter(|probed| &probed.id == id).map(|probed| &probed.tracker)
    }

    pub fn verdict(&self, name: &str, kind: Kind, id: &ContainerId) -> Verdict {
        self.tracker(name, kind, id).map_or(Verdict::Pending, Tracker::verdict)
    }

    /// The tracker to count a result in; a new one for a new run.
    pub fn tracker_mut(&mut self, name: &str, fresh: Tracker, kind: Kind, id: &ContainerId) -> &mut Tracker {
        let probed =
            self.probes.entry((name.to_owned(), kind)).or_insert_with(|| Probed { id: id.clone(), tracker: fresh });
        if &probed.id != id {
            *probed = Probed { id: id.clone(), tracker: fresh };
        }
        &mut probed.tracker
    }
}

pub fn probe_of(container: &k8s_openapi::api::core::v1::Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
    }
}

/// The report that decisions may rely on: none while the pod has not been reported at all.
pub fn reported(pod: &Pod) -> Option<&PodStatus> {
    pod.status.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: FailureKind, at: i64) -> LaunchFailure {
        let at = Moment::from_seconds(at);
        LaunchFailure { attempt: 0, kind, message: "m".into(), at, checked: at }
    }

    #[test]
    fn a_missing_image_is_looked_for_often_and_pulled_by_the_back_off() {
        let mut memory = Memory::default();
        let at = Moment::from_seconds;
        memory.launch_failed("m", failure(FailureKind::ImagePull, 100), true, at(100));
        let next = memory.containers["m"].next_try(0).unwrap();
        assert_eq!(next, NextTry { at: at(102), may_pull: false });
        for now in [102, 104, 106, 108] {
            memory.launch_failed("m", failure(FailureKind::ImagePull, now), false, at(now));
        }
        assert_eq!(memory.containers["m"].next_try(0).unwrap(), NextTry { at: at(110), may_pull: true });
        memory.launch_failed("m", failure(FailureKind::ImagePull, 110), true, at(110));
        memory.launch_failed("m", failure(FailureKind::ImagePull, 128), false, at(128));
        assert_eq!(memory.containers["m"].next_try(0).unwrap(), NextTry { at: at(130), may_pull: true });
        assert_eq!(memory.containers["m"].next_try(1), None, "another attempt has no failure");
        memory.launched("m");
        assert_eq!(memory.containers["m"].next_try(0), None);
    }

    #[test]
    fn a_retried_step_waits_longer_each_time_and_forgets_on_success() {
        let mut retry = Retry::default();
        let now = Moment::from_seconds(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            retry.failed("no".into(), now);
            waits.push(retry.due(now).unwrap().since(now).as_millis());
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 8000]);
        retry.succeeded();
        assert_eq!((retry.done, retry.due(now)), (true, None));
    }
}
