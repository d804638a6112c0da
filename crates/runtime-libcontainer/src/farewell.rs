//! Ending containers because their node ends: each that would do anything about its signal gets it, and is waited for.
//!
//! What such a container returns says nothing of its task, which was interrupted: a mark beside its records, made before
//! the signal, makes its exit one that nobody saw, whoever reads it. Not responsible for how long all of it may take.

use std::fs;
use std::io;
use std::sync::Arc;

use pod_runtime::{ContainerId, ContainerState, RuntimeError, STATUS_UNKNOWN};
use shim::record::ExitRecord;

use crate::Shared;
use crate::failure::io_at;

/// In a container's directory, of one that was asked to end with its node.
const INTERRUPTED: &str = "interrupted";
const SIGKILL: i32 = 9;

impl Shared {
    pub(crate) async fn end_with_node(self: &Arc<Self>, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        let record = {
            // Not before a start that is under way has come to its end.
            let _guard = self.locks.lock(&id.0).await;
            let Some(record) = self.container_record(id)? else { return Ok(()) };
            let (ContainerState::Running { .. }, Some(running)) = (self.state(id)?, self.running(id)?) else {
                return Ok(());
            };
            if !listens(running.init.pid, signal) {
                // It has ended, or nothing but the node's end will end it.
                return Ok(());
            }
            fs::write(self.layout.container(id).join(INTERRUPTED), "").map_err(io_at("mark a container"))?;
            self.signal(id, signal)?;
            record
        };
        self.exited(&record).await
    }

    pub(crate) fn is_interrupted(&self, id: &ContainerId) -> bool {
        self.layout.container(id).join(INTERRUPTED).exists()
    }

    /// The node didn't end after all.
    pub(crate) fn not_interrupted(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match fs::remove_file(self.layout.container(id).join(INTERRUPTED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at("take a container's mark away")(error)),
            _ => Ok(()),
        }
    }
}

/// As if nobody had seen the end.
pub(crate) fn interrupted(exit: ExitRecord) -> ExitRecord {
    ExitRecord {
        code: 128 + SIGKILL,
        signal: None,
        reason: STATUS_UNKNOWN.to_owned(),
        message: "it was interrupted by the end of its node".to_owned(),
        ..exit
    }
}

fn listens(pid: i32, signal: i32) -> bool {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = file("status");
    !status.is_empty() && (heeds(&status, signal) || waits_for_signals(&file("syscall")))
}

/// In sigtimedwait(2), as small inits are: what it waits for isn't among the blocked signals meanwhile.
fn waits_for_signals(syscall: &str) -> bool {
    let number = syscall.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    number == Some(libc::SYS_rt_sigtimedwait)
}

/// Whether a process would do anything about a signal: proc(5)'s `status` has its masks. One that it blocks it may wait
/// for. The first process of a pid namespace gets none that it hasn't asked for (pid_namespaces(7)); others end.
fn heeds(status: &str, signal: i32) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let masked = |name: &str| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
    };
    let first = field("NSpid:").and_then(|ids| ids.split_ascii_whitespace().last()) == Some("1");
    masked("SigCgt:") || masked("SigBlk:") || !(first || masked("SigIgn:"))
}

#[cfg(test)]
mod tests {
    use super::{heeds, waits_for_signals};

    #[test]
    fn who_has_not_asked_for_a_signal_is_not_waited_for() {
        let status = |ids: &str, [blocked, ignored, caught]: [u64; 3]| {
            format!(
                "Name:\tx\nNSpid:\t{ids}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let (none, term) = (0, 1 << 14);
        for (ids, masks, expected) in [
            ("40\t1", [none, none, none], false),
            ("40\t1", [none, none, term], true),
            ("40\t1", [term, none, none], true),
            ("40\t1", [none, term, none], false),
            ("40\t1", [none, none, !term], false),
            ("40", [none, none, none], true),
            ("40", [none, term, none], false),
        ] {
            assert_eq!(heeds(&status(ids, masks), 15), expected, "{ids} {masks:x?}");
        }
        assert!(waits_for_signals(&format!("{} 0x7ffe 0x0 0x8", libc::SYS_rt_sigtimedwait)));
        assert!(!waits_for_signals("running") && !waits_for_signals("-1 0x0") && !waits_for_signals(""));
        assert!(heeds(&status("40\t1", [none, none, 1 << 63]), 64));
    }
}
