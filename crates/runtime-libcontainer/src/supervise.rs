//! Noticing that containers end: one task per running container waits for its shim's end, whoever started it.
//!
//! Not responsible for what the agent does about it.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use pod_runtime::{Changed, ContainerId, RuntimeError, STATUS_UNKNOWN};
use shim::record::{self as files, ExitRecord};
use shim::{ProcessIdentity, cgroup};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::Shared;
use crate::failure::{blocking, io_at};
use crate::record::ContainerRecord;
use crate::sandbox::now;

const SIGKILL: i32 = 9;

/// For each watched container, a value that turns true when its exit is on record.
#[derive(Default)]
pub(crate) struct Watchers {
    watched: Mutex<HashMap<ContainerId, watch::Receiver<bool>>>,
}

impl Watchers {
    fn get(&self, id: &ContainerId) -> Option<watch::Receiver<bool>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A sender, unless the container is watched already.
    fn add(&self, id: &ContainerId) -> Option<watch::Sender<bool>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.contains_key(id) {
            return None;
        }
        let (sender, receiver) = watch::channel(false);
        watched.insert(id.clone(), receiver);
        Some(sender)
    }

    pub(crate) fn forget(&self, id: &ContainerId) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Shared {
    /// Watches a container that was started, now or in another agent's time.
    pub(crate) fn watch(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), RuntimeError> {
        let Some(exited) = self.watchers.add(&record.id) else { return Ok(()) };
        let shim = match self.running(&record.id)? {
            Some(running) => running.shim.open().map_err(io_at("find a container's shim"))?,
            None => None,
        };
        let (shared, record) = (Arc::clone(self), record.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = shared.until_exited(&record, shim) => {
                    let _ = exited.send(true);
                    let _ = shared.changes.send(Changed { sandbox: record.sandbox });
                }
            }
        });
        Ok(())
    }

    /// Returns when the container's exit is on record.
    pub(crate) async fn exited(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), RuntimeError> {
        if self.exit(&record.id)?.is_some() {
            return Ok(());
        }
        self.watch(record)?;
        if let Some(mut exited) = self.watchers.get(&record.id) {
            // An error means that the runtime is being dropped.
            let _ = exited.wait_for(|exited| *exited).await;
        }
        Ok(())
    }

    /// Ends a container of no pod, waiting where one may.
    pub(crate) fn end_now(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.signal(id, SIGKILL)?;
        if let Some(running) = self.running(id)? {
            wait_ended(running.shim)?;
        }
        self.settle(id)
    }

    async fn until_exited(self: &Arc<Self>, record: &ContainerRecord, shim: Option<OwnedFd>) {
        if let Some(shim) = shim {
            wait_readable(shim).await;
        }
        let (shared, id) = (Arc::clone(self), record.id.clone());
        let settled = blocking("settle a container's end", move || shared.settle(&id)).await;
        if let Err(error) = settled {
            tracing::error!(container = %record.id.0, %error, "can't settle a container's end");
        }
    }

    /// After the shim's end: its record of the exit is there, unless it was killed. Then the container, which nobody
    /// reads the output of and nobody can reap any more, is ended too.
    pub(crate) fn settle(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if self.exit(id)?.is_some() {
            return Ok(());
        }
        let Some(running) = self.running(id)? else { return Ok(()) };
        self.signal(id, SIGKILL)?;
        wait_ended(running.init)?;
        let directory = self.layout.container(id);
        let config = files::read::<files::ShimConfig>(&directory.join(files::SHIM_CONFIG))
            .map_err(io_at("read a shim's configuration"))?;
        if let Some(config) = config {
            cgroup::remove_tree(&config.cgroup).map_err(io_at("remove a container's control group"))?;
        }
        let _ = fs::remove_dir_all(directory.join(files::OCI_STATE));
        let exit = ExitRecord {
            code: 128 + SIGKILL,
            signal: None,
            started_at: running.started_at,
            finished_at: now(),
            reason: STATUS_UNKNOWN.to_owned(),
            message: "how it ended is unknown: its shim was killed, which would have said so, or its node ended"
                .to_owned(),
        };
        files::write(&directory.join(files::EXIT), &exit).map_err(io_at("record a container's exit"))
    }
}

/// Blocks until the process has ended.
fn wait_ended(process: ProcessIdentity) -> Result<(), RuntimeError> {
    if let Some(process) = process.open().map_err(io_at("find a process"))? {
        let mut ended = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).map_err(io_at("wait for a process"))?;
    }
    Ok(())
}

/// A pidfd is readable when its process has ended.
#[allow(unsafe_code)]
async fn wait_readable(process: OwnedFd) {
    // SAFETY: an OwnedFd names the same descriptor until it's dropped, and is dropped after its registration.
    match unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) } {
        Ok(process) => {
            let _ = process.readable().await;
        }
        Err(error) => tracing::error!(%error, "can't wait for a process"),
    }
}
