//! A node's processes: starting them, and starting them again later and later while they keep ending early.
//!
//! Not responsible for waiting: `inner` calls when there is news.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use rustix::process::{WaitOptions, wait};

use super::{Child, NodeInitError, OnExit, at};
use crate::process::Ended;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A child that ran this long is started again at once.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What the end of some process means for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Nothing,
    Node(i32),
}

/// Who hears that the node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Those with an `end_signal`; the others go on for them.
    WhoAsked,
    Everybody,
}

pub(super) struct Children {
    all: Vec<Kept>,
}

struct Kept {
    child: Child,
    log: File,
    state: State,
    delay: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Due(Instant),
    Running { pid: i32, since: Instant },
}

impl Children {
    /// Opens their logs, which may lie where a tmpfs is mounted later.
    pub(super) fn open(children: &[Child]) -> Result<Self, NodeInitError> {
        let now = Instant::now();
        let keep = |child: &Child| {
            let log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&child.log)
                .map_err(at("open the log", &child.log))?;
            Ok(Kept { child: child.clone(), log, state: State::Due(now), delay: Duration::ZERO })
        };
        Ok(Self { all: children.iter().map(keep).collect::<Result<_, _>>()? })
    }

    pub(super) fn start_due(&mut self, now: Instant) {
        for kept in &mut self.all {
            if matches!(kept.state, State::Due(at) if at <= now) {
                kept.start(now);
            }
        }
    }

    pub(super) fn next_start(&self) -> Option<Instant> {
        let due = |kept: &Kept| match kept.state {
            State::Due(at) => Some(at),
            State::Running { .. } => None,
        };
        self.all.iter().filter_map(due).min()
    }

    /// Whether all have ended that were told to.
    pub(super) fn have_ended(&self, told: Told) -> bool {
        self.all.iter().filter(|kept| kept.signal(told).is_some()).all(|kept| matches!(kept.state, State::Due(_)))
    }

    pub(super) fn tell(&self, told: Told) {
        for kept in &self.all {
            if let (State::Running { pid, .. }, Some(signal)) = (kept.state, kept.signal(told)) {
                // One that has just ended is as good as told.
                let _ = send(pid, signal);
            }
        }
    }

    /// Reaps everything that has ended, children and orphans alike.
    pub(super) fn reap(&mut self, now: Instant) -> Ending {
        let mut ending = Ending::Nothing;
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            let pid = ended.as_raw_nonzero().get();
            let ours = |kept: &&mut Kept| matches!(kept.state, State::Running { pid: running, .. } if running == pid);
            if let Some(kept) = self.all.iter_mut().find(ours) {
                let code = Ended::from(status).code;
                kept.ended(code, now);
                if kept.child.on_exit == OnExit::EndNode {
                    ending = Ending::Node(code);
                }
            }
        }
        ending
    }
}

impl Kept {
    /// What says it to this one; none when it isn't told.
    fn signal(&self, told: Told) -> Option<i32> {
        match told {
            Told::Everybody => Some(self.child.end_signal.unwrap_or(libc::SIGTERM)),
            Told::WhoAsked => self.child.end_signal,
        }
    }

    fn start(&mut self, now: Instant) {
        let spawned = self.command().and_then(|mut command| command.spawn());
        match spawned {
            // Reaped by `Children::reap`, with all others.
            Ok(process) => self.state = State::Running { pid: process.id().cast_signed(), since: now },
            Err(error) => {
                let _ = writeln!(self.log, "node: start {}: {error}", self.child.name);
                self.later(now);
            }
        }
    }

    fn command(&self) -> std::io::Result<Command> {
        let program = self.child.argv.first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(&self.child.argv[1..]).envs(self.child.env.iter().cloned());
        // SAFETY: sigprocmask(2) may be called between fork and exec. A child must not inherit that we block signals.
        unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
        command.stdin(Stdio::null()).stdout(self.log.try_clone()?).stderr(self.log.try_clone()?);
        Ok(command)
    }

    fn ended(&mut self, code: i32, now: Instant) {
        let _ = writeln!(self.log, "node: {} ended with code {code}", self.child.name);
        if matches!(self.state, State::Running { since, .. } if now.duration_since(since) >= GOOD_RUN) {
            self.delay = Duration::ZERO;
        }
        self.later(now);
    }

    fn later(&mut self, now: Instant) {
        self.state = State::Due(now + self.delay);
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
    }
}

/// Real-time signals too, which the typed calls don't know.
fn send(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of ours.
    nix::errno::Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let child = Child {
            name: "c".into(),
            argv: vec![],
            env: vec![],
            log: "/dev/null".into(),
            on_exit: OnExit::Restart,
            end_signal: None,
        };
        let log = OpenOptions::new().append(true).open("/dev/null").unwrap();
        Kept { child, log, state: State::Due(Instant::now()), delay: Duration::ZERO }
    }

    fn delays(kept: &mut Kept, ran: Duration, times: usize) -> Vec<u128> {
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..times {
            kept.state = State::Running { pid: 1, since: now };
            now += ran;
            kept.ended(1, now);
            let State::Due(at) = kept.state else { panic!("not due") };
            delays.push((at - now).as_millis());
        }
        delays
    }

    #[test]
    fn a_child_that_keeps_ending_waits_longer_each_time() {
        let mut child = kept();
        assert_eq!(delays(&mut child, Duration::ZERO, 8), [0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(delays(&mut child, GOOD_RUN, 1), [0]);
    }
}
