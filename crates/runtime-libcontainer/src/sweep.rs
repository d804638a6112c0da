//! Taking over: watch what runs, settle what ended unseen, remove what belongs to nothing. One part that can't be dealt
//! with is logged and stays; it stops nothing else.
//!
//! Not responsible for pods the agent no longer wants: it lists and removes those.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use pod_runtime::{ContainerId, ContainerState, RuntimeError, SandboxId};
use shim::cgroup;

use crate::Shared;
use crate::failure::{blocking, io_at};
use crate::layout::names;
use crate::namespaces;
use crate::record::ContainerRecord;

pub(crate) async fn sweep(shared: &Arc<Shared>) -> Result<(), RuntimeError> {
    let sweeping = Arc::clone(shared);
    let running = blocking("take over the node's containers", move || sweeping.take_over()).await?;
    for record in running {
        shared.watch(&record)?;
    }
    let sweeping = Arc::clone(shared);
    blocking("sweep the runtime's directories", move || sweeping.remove_leftovers()).await
}

impl Shared {
    /// Gives the containers that still run.
    fn take_over(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let mut running = Vec::new();
        for record in self.container_records()? {
            match self.runs_or_settles(&record.id) {
                Ok(true) => running.push(record),
                Ok(false) => {}
                Err(error) => tracing::warn!(container = %record.id.0, %error, "can't take over a container"),
            }
        }
        Ok(running)
    }

    fn runs_or_settles(&self, id: &ContainerId) -> Result<bool, RuntimeError> {
        let Some(processes) = self.running(id)? else { return Ok(false) };
        if self.exit(id)?.is_some() {
            return Ok(false);
        }
        if processes.shim.open().map_err(io_at("find a container's shim"))?.is_some() {
            self.not_interrupted(id)?;
            return Ok(true);
        }
        self.settle(id).map(|()| false)
    }

    fn remove_leftovers(&self) -> Result<(), RuntimeError> {
        each(self.layout.containers(), |name| self.remove_container_leftovers(ContainerId(name)))?;
        each(self.layout.all_writable(), |name| {
            let id = ContainerId(name);
            if self.layout.container(&id).exists() {
                return Ok(());
            }
            filetree::remove(&self.layout.writable(&id)).map_err(io_at("remove what a container wrote"))
        })?;
        each(self.layout.sandboxes(), |name| {
            let id = SandboxId(name);
            match self.sandbox_record(&id)? {
                Some(_) => Ok(()),
                None => filetree::remove(&self.layout.sandbox(&id)).map_err(io_at("remove a pod's directory")),
            }
        })?;
        let pods = self.sandbox_records()?;
        each(self.layout.all_namespaces(), |name| match pods.iter().any(|pod| pod.spec.id.0 == name) {
            true => Ok(()),
            false => namespaces::remove(&self.layout.namespaces(&SandboxId(name))),
        })?;
        let uids: HashSet<&str> = pods.iter().map(|pod| pod.spec.uid.as_str()).collect();
        for group in cgroup::children(&self.config.cgroup_parent) {
            if !uids.contains(group.as_str()) {
                let removed = cgroup::remove_tree(&self.config.cgroup_parent.join(&group));
                report(&group, removed.map_err(io_at("remove a control group")));
            }
        }
        Ok(())
    }

    /// Ends and removes a container that isn't on record, or whose pod isn't.
    fn remove_container_leftovers(&self, id: ContainerId) -> Result<(), RuntimeError> {
        let record = self.container_record(&id)?;
        if let Some(record) = &record
            && self.sandbox_record(&record.sandbox)?.is_some()
        {
            return Ok(());
        }
        if matches!(self.state(&id)?, ContainerState::Running { .. }) {
            self.end_now(&id)?;
        }
        self.delete_files(&id, record.as_ref())
    }
}

fn each(directory: PathBuf, mut work: impl FnMut(String) -> Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    for name in names(&directory).map_err(io_at("list the runtime's directories"))? {
        let done = work(name.clone());
        report(&name, done);
    }
    Ok(())
}

fn report(name: &str, done: Result<(), RuntimeError>) {
    if let Err(error) = done {
        tracing::warn!(%name, %error, "something stays that belongs to no pod");
    }
}
