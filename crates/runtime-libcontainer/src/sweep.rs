//! Taking over: watch what runs, settle what ended unseen, remove what belongs to nothing.
//!
//! Not responsible for pods the agent no longer wants: it lists and removes those.

use std::collections::HashSet;
use std::fs;
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
            if let Some(processes) = self.running(&record.id)?
                && self.exit(&record.id)?.is_none()
            {
                match processes.shim.open().map_err(io_at("find a container's shim"))? {
                    Some(_) => running.push(record),
                    None => self.settle(&record.id)?,
                }
            }
        }
        Ok(running)
    }

    fn remove_leftovers(&self) -> Result<(), RuntimeError> {
        let list = |directory: PathBuf| names(&directory).map_err(io_at("list the runtime's directories"));
        for name in list(self.layout.containers())? {
            let id = ContainerId(name);
            let record = self.container_record(&id)?;
            let orphan = match &record {
                None => true,
                Some(record) => self.sandbox_record(&record.sandbox)?.is_none(),
            };
            if orphan {
                self.remove_orphan(&id, record.as_ref())?;
            }
        }
        for name in list(self.layout.all_writable())? {
            let id = ContainerId(name);
            if !self.layout.container(&id).exists() {
                fs::remove_dir_all(self.layout.writable(&id)).map_err(io_at("remove a container's leftovers"))?;
            }
        }
        for name in list(self.layout.sandboxes())? {
            let id = SandboxId(name);
            if self.sandbox_record(&id)?.is_none() {
                fs::remove_dir_all(self.layout.sandbox(&id)).map_err(io_at("remove a pod's leftovers"))?;
            }
        }
        let pods = self.sandbox_records()?;
        for name in list(self.layout.all_namespaces())? {
            if !pods.iter().any(|pod| pod.spec.id.0 == name) {
                namespaces::remove(&self.layout.namespaces(&SandboxId(name)))?;
            }
        }
        let uids: HashSet<&str> = pods.iter().map(|pod| pod.spec.uid.as_str()).collect();
        for group in cgroup::children(&self.config.cgroup_parent) {
            if !uids.contains(group.as_str())
                && let Err(error) = cgroup::remove_tree(&self.config.cgroup_parent.join(&group))
            {
                tracing::warn!(%group, %error, "a control group of no pod stays");
            }
        }
        Ok(())
    }

    fn remove_orphan(&self, id: &ContainerId, record: Option<&ContainerRecord>) -> Result<(), RuntimeError> {
        if matches!(self.state(id)?, ContainerState::Running { .. }) {
            self.end_now(id)?;
        }
        self.delete_files(id, record)
    }
}
