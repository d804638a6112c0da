//! Pods: their namespaces and network, and all their containers at once.
//!
//! Not responsible for single containers.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pod_runtime::{RuntimeError, SandboxId, SandboxNetwork, SandboxSpec, SandboxStatus};
use shim::{cgroup, record as files};
use tokio::task::JoinSet;

use crate::Shared;
use crate::failure::{blocking, io_at, other_at};
use crate::layout::{is_safe_name, names};
use crate::namespaces::{self, Kind, Settings};
use crate::record::{self, SANDBOX, SandboxPhase, SandboxRecord};

const SIGKILL: i32 = 9;

impl Shared {
    pub(crate) async fn run_sandbox(self: &Arc<Self>, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        for name in [&spec.id.0, &spec.uid] {
            if !is_safe_name(name) {
                return Err(RuntimeError::CannotRun(format!("{name:?} can't be part of a path")));
            }
        }
        let _guard = self.lock_sandbox(&spec.id).await;
        if let Some(record) = self.sandbox_record(&spec.id)?
            && self.is_ready(&record)
        {
            return Ok(self.sandbox_status(record));
        }
        let mut record =
            SandboxRecord { spec: spec.clone(), phase: SandboxPhase::Making, addresses: Vec::new(), created_at: now() };
        fs::create_dir_all(self.layout.sandbox(&spec.id)).map_err(io_at("make a pod's directory"))?;
        self.write_sandbox(&record)?;
        let (directory, kinds) = (self.layout.namespaces(&spec.id), Kind::of(spec));
        let wanted = Settings { hostname: spec.hostname.clone(), sysctls: spec.sysctls.clone() };
        blocking("make a pod's namespaces", move || namespaces::make(&directory, kinds, wanted)).await?;
        if spec.network == SandboxNetwork::Pod {
            let namespace = Kind::Net.pin(&self.layout.namespaces(&spec.id));
            record.addresses = self.config.network.attach(spec, &namespace).await?;
        }
        record.phase = SandboxPhase::Ready;
        self.write_sandbox(&record)?;
        Ok(self.sandbox_status(record))
    }

    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let _guard = self.lock_sandbox(id).await;
        let Some(mut record) = self.sandbox_record(id)? else { return Ok(()) };
        if record.phase == SandboxPhase::Stopped {
            return Ok(());
        }
        self.kill_containers(id).await?;
        if record.spec.network == SandboxNetwork::Pod {
            self.config.network.detach(id).await?;
        }
        let directory = self.layout.namespaces(id);
        blocking("remove a pod's namespaces", move || namespaces::remove(&directory)).await?;
        record.phase = SandboxPhase::Stopped;
        self.write_sandbox(&record)
    }

    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        self.stop_sandbox(id).await?;
        let Some(record) = self.sandbox_record(id)? else { return Ok(()) };
        for container in self.containers(Some(id)).await? {
            self.remove_container(&container.id).await?;
        }
        let _guard = self.lock_sandbox(id).await;
        let group = self.config.cgroup_parent.join(&record.spec.uid);
        let directory = self.layout.sandbox(id);
        blocking("remove a pod", move || {
            // Another sandbox of the same pod may still have groups below.
            cgroup::remove_if_empty(&group);
            filetree::remove(&directory).map_err(io_at("remove a pod's directory"))
        })
        .await
    }

    pub(crate) async fn sandboxes(self: &Arc<Self>) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let shared = Arc::clone(self);
        blocking("list pods", move || {
            let records = shared.sandbox_records()?;
            Ok(records.into_iter().map(|record| shared.sandbox_status(record)).collect())
        })
        .await
    }

    pub(crate) fn sandbox_records(&self) -> Result<Vec<SandboxRecord>, RuntimeError> {
        let ids = names(&self.layout.sandboxes()).map_err(io_at("list pods"))?;
        let records = ids.into_iter().map(|id| self.sandbox_record(&SandboxId(id)));
        records.filter_map(Result::transpose).collect()
    }

    pub(crate) fn sandbox_record(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, RuntimeError> {
        if !is_safe_name(&id.0) {
            return Ok(None);
        }
        record::read(&self.layout.sandbox(id).join(SANDBOX)).map_err(io_at("read a pod's record"))
    }

    pub(crate) fn is_ready(&self, record: &SandboxRecord) -> bool {
        let directory = self.layout.namespaces(&record.spec.id);
        record.phase == SandboxPhase::Ready && namespaces::are_pinned(&directory, Kind::of(&record.spec))
    }

    /// A key that no container's id can be.
    async fn lock_sandbox(&self, id: &SandboxId) -> tokio::sync::OwnedMutexGuard<()> {
        self.locks.lock(&format!("sandbox/{}", id.0)).await
    }

    fn write_sandbox(&self, record: &SandboxRecord) -> Result<(), RuntimeError> {
        files::write(&self.layout.sandbox(&record.spec.id).join(SANDBOX), record).map_err(io_at("write a pod's record"))
    }

    fn sandbox_status(&self, record: SandboxRecord) -> SandboxStatus {
        let ready = self.is_ready(&record);
        let pin = || Kind::Net.pin(&self.layout.namespaces(&record.spec.id));
        let network_namespace: Option<PathBuf> = (ready && record.spec.network == SandboxNetwork::Pod).then(pin);
        SandboxStatus {
            ready,
            addresses: record.addresses,
            network_namespace,
            created_at: record.created_at,
            spec: record.spec,
        }
    }

    async fn kill_containers(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let mut killing = JoinSet::new();
        for container in self.containers(Some(id)).await? {
            let shared = Arc::clone(self);
            killing.spawn(async move { shared.stop_container(&container.id, SIGKILL, Duration::ZERO).await });
        }
        while let Some(killed) = killing.join_next().await {
            killed.map_err(other_at("kill a pod's containers"))??;
        }
        Ok(())
    }
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
