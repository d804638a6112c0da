//! Naming a process so that a later one with its pid isn't mistaken for it, and waiting for one.
//!
//! Not responsible for what a process is.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use serde::{Deserialize, Serialize};

/// A pid and the process's start time, in this process's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat` (proc(5)), clock ticks since boot.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the command in parentheses and may hold spaces and parentheses itself.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let start_ticks = rest
            .split_ascii_whitespace()
            .nth(19)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat without a start time"))?;
        Ok(Self { pid, start_ticks })
    }

    /// A pidfd of the process, or `None` when it is gone (a zombie still counts as there).
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor names whoever has the pid now: only afterwards is the comparison conclusive.
        match Self::of(self.pid) {
            Ok(found) if found == *self => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The process's own, or 128 + signal.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// Waits for a child and reaps it.
pub(crate) fn reap(pid: i32) -> io::Result<Ended> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exited() || status.signaled() => return Ok(Ended::from(status)),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl From<rustix::process::WaitStatus> for Ended {
    fn from(status: rustix::process::WaitStatus) -> Self {
        let signal = status.terminating_signal();
        let code = signal.map_or_else(|| status.exit_status().unwrap_or(255), |signal| 128 + signal);
        Self { code, signal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = ProcessIdentity::of(std::process::id() as i32).unwrap();
        assert!(me.open().unwrap().is_some());
        let other = ProcessIdentity { start_ticks: me.start_ticks + 1, ..me };
        assert!(other.open().unwrap().is_none());
    }

    #[test]
    fn a_reaped_process_is_gone() {
        let mut child = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let identity = ProcessIdentity::of(child.id() as i32).unwrap();
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
    }
}
