//! Everything a decision about a pod is made from, and the questions both `plan` and `status` ask of it.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::time::Duration;

use super::memory::{Memory, probe_of};
use super::observed::{History, Observed, Run, history};
use super::plan::Key;
use super::spec::{self, Member, RestartPolicy, Role};
use crate::clock::Moment;
use crate::probe::{Kind, Verdict};

/// Desired, observed, remembered, and the time.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    /// The object isn't in the API any more.
    pub gone: bool,
    pub observed: &'a Observed,
    pub memory: &'a Memory,
    pub now: Moment,
}

/// Why a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its object is being deleted, or is gone.
    Deleted,
    /// `activeDeadlineSeconds` have passed.
    Deadline,
    /// The node has failed it.
    Failed,
    /// Its containers have done what they were for, or failed for good; or the API says so already.
    Completed,
}

impl<'a> View<'a> {
    pub fn reported(&self) -> Option<&'a PodStatus> {
        self.pod.status.as_ref()
    }

    pub fn history(&self, member: Member<'_>) -> History {
        history(member.name(), self.observed, self.reported())
    }

    pub fn policy(&self) -> RestartPolicy {
        spec::restart_policy(self.pod)
    }

    pub fn in_flight(&self, key: &Key) -> bool {
        self.memory.in_flight.contains(key)
    }

    pub fn launching(&self, member: Member<'_>) -> bool {
        self.in_flight(&Key::Launch(member.name().to_owned()))
    }

    /// Whether the pod is to end, and why.
    pub fn ending(&self) -> Option<Ending> {
        if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            Some(Ending::Deleted)
        } else if self.deadline_passed() {
            Some(Ending::Deadline)
        } else if self.memory.failed.is_some() {
            Some(Ending::Failed)
        } else if spec::is_terminal(self.pod) || self.completed() {
            Some(Ending::Completed)
        } else {
            None
        }
    }

    /// When `activeDeadlineSeconds` run out, counted from `status.startTime`.
    pub fn deadline(&self) -> Option<Moment> {
        let seconds = u64::try_from(spec::spec(self.pod).active_deadline_seconds?).ok()?;
        let start = self.reported()?.start_time.as_ref()?;
        Some(Moment::of(start).plus(Duration::from_secs(seconds)))
    }

    pub fn deadline_passed(&self) -> bool {
        self.deadline().is_some_and(|deadline| self.now >= deadline)
    }

    /// Whether the main containers have ended and none is started again, or an init container has failed for good.
    pub fn completed(&self) -> bool {
        if self.init_failed() {
            return true;
        }
        let mut mains = spec::main_members(self.pod).peekable();
        mains.peek().is_some() && mains.all(|member| self.ended_for_good(member))
    }

    pub fn init_failed(&self) -> bool {
        let mut inits = spec::init_members(self.pod).filter(|member| member.role == Role::Init);
        self.policy() == RestartPolicy::Never
            && inits.any(|member| {
                let current = self.history(member).current;
                current.as_ref().and_then(Run::exit).is_some_and(|exit| exit.code != 0)
            })
    }

    fn ended_for_good(&self, member: Member<'_>) -> bool {
        let current = self.history(member).current;
        let exit = current.as_ref().and_then(Run::exit);
        let replaced = current.as_ref().is_some_and(|run| self.replaced(run));
        !self.launching(member) && !replaced && exit.is_some_and(|exit| !member.restarts(self.policy(), exit.code))
    }

    /// Whether this run was ended to make room for another image.
    pub fn replaced(&self, run: &Run) -> bool {
        run.id.as_ref().is_some_and(|id| self.memory.replaced.contains(id))
    }

    /// Whether any main container has been started in the present sandbox: init containers are behind us.
    pub fn mains_started(&self) -> bool {
        let mut mains = spec::main_members(self.pod);
        mains.any(|member| self.launching(member) || self.runs_here(member))
    }

    /// Whether the runtime lists a run of this container in the present sandbox.
    pub fn runs_here(&self, member: Member<'_>) -> bool {
        self.observed.containers.iter().any(|container| container.name == member.name())
    }

    /// Running, past `postStart` and past its startup probe.
    pub fn started(&self, member: Member<'_>, run: &Run) -> bool {
        let (Some(_), Some(id)) = (run.running(), &run.id) else { return false };
        let startup = probe_of(member.container, Kind::Startup).is_none()
            || self.memory.verdict(member.name(), Kind::Startup, id) == Verdict::Passed;
        startup && !self.launching(member)
    }

    /// Started, and past its readiness probe if it has one.
    pub fn ready(&self, member: Member<'_>, run: &Run) -> bool {
        let Some(id) = &run.id else { return false };
        let probed = probe_of(member.container, Kind::Readiness).is_none()
            || self.memory.verdict(member.name(), Kind::Readiness, id) == Verdict::Passed;
        probed && self.started(member, run)
    }

    /// Whether the init containers have all done their part: ended well, or as sidecars started.
    pub fn initialized(&self) -> bool {
        self.mains_started() || spec::init_members(self.pod).all(|member| self.init_done(member))
    }

    pub fn init_done(&self, member: Member<'_>) -> bool {
        let current = self.history(member).current;
        match (&current, member.role) {
            (Some(run), Role::Sidecar) => self.started(member, run),
            (Some(run), _) => run.exit().is_some_and(|exit| exit.code == 0),
            (None, _) => false,
        }
    }
}
