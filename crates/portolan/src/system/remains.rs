//! Clearing away what a system leaves when it didn't end by itself (kill -9, power): nodes that wait for another
//! supervisor, links and cgroups.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use netns::NetNs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{DataDir, Record, cgroups, forwarding};
use crate::up::{lifeline, remove_host_link};

/// How long a node may take to end by itself before it is killed; it gives its pods a little of that.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// Removes everything the record names, and the record.
pub async fn clear(dir: &DataDir, record: &Record) -> Result<()> {
    for node in &record.nodes {
        // Those that run are told at once, so that they end side by side.
        if Process::find(node.starter, &dir.node(&node.name).to_string_lossy()).is_some()
            && let Ok(mut lifeline) = lifeline(node.starter)
        {
            // One that is ending already doesn't listen.
            let _ = lifeline.write_all(&[shim::LIFELINE_END]);
        }
    }
    for node in &record.nodes {
        let mark = dir.node(&node.name).to_string_lossy().into_owned();
        for id in [node.init, node.starter] {
            // The id may be somebody else's by now: only processes of this system are waited for or killed.
            let Some(process) = Process::find(id, &mark) else { continue };
            if !process.wait(NODE_PATIENCE)? {
                process.signal(Signal::KILL)?;
                process.wait(NODE_PATIENCE)?;
            }
        }
    }
    remove_host_link(&record.host_link).await.context("cannot remove the host's link")?;
    if let Some(table) = &record.host_table {
        table.remove()?;
        forwarding::give_back(&NetNs::current()?, dir)?;
    }
    cgroups::sweep(&record.cgroup).await?;
    Record::forget(dir)
}

/// A process that can't be mistaken for another one once it's found.
pub struct Process(OwnedFd);

impl Process {
    /// The process of this id, if its command line mentions `mark`.
    pub fn find(id: i32, mark: &str) -> Option<Self> {
        let handle = pidfd_open(Pid::from_raw(id)?, PidfdFlags::empty()).ok()?;
        let command = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains(mark).then_some(Process(handle))
    }

    /// The process of this id, whatever it is.
    pub fn open(id: i32) -> Option<Self> {
        pidfd_open(Pid::from_raw(id)?, PidfdFlags::empty()).ok().map(Process)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e).context("cannot signal a process of the system; as its owner or by sudo it can be"),
        }
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Result<()> {
        let waiting = "cannot wait for a process";
        let handle = self.0.try_clone().context(waiting)?;
        #[allow(deprecated, reason = "its unsafe successor is for descriptors that somebody else may close")]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE).context(waiting)?;
        handle.readable().await.map(drop).context(waiting)
    }

    /// Whether it ended within the time.
    pub fn wait(&self, patience: Duration) -> Result<bool> {
        let timeout = Timespec::try_from(patience).context("the time to wait")?;
        let mut waited = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut waited, Some(&timeout)).context("cannot wait for a process")? > 0)
    }
}
