//! Single containers: made on disk, started by a shim, stopped by signals to their init, listed from their files.
//!
//! Not responsible for what happens inside, nor for noticing ends (`supervise`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use images::Image;
use pod_runtime::{
    Changed, ContainerId, ContainerSpec, ContainerState, ContainerStatus, Exit, RuntimeError, SandboxId,
};
use shim::record::{self as files, ExitRecord, LogLimit, Running, ShimConfig, StartReport};
use shim::{SHIM, cgroup};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::Shared;
use crate::capability::DeviceFilter;
use crate::failure::{HelperFailure, blocking, io_at, other_at};
use crate::farewell;
use crate::layout::{is_safe_name, names};
use crate::namespaces::Kind;
use crate::protected::Protected;
use crate::record::{self, CONTAINER, ContainerRecord, SandboxRecord};
use crate::spec::{self, Parts};
use crate::user;

/// What the shim itself has to complain about.
const SHIM_ERRORS: &str = "shim.err";
const SIGKILL: i32 = 9;
/// A shim that another agent started takes this long at most to say that the container runs.
const BUSY_FOR: Duration = Duration::from_secs(10);

impl Shared {
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        spec: &ContainerSpec,
    ) -> Result<ContainerId, RuntimeError> {
        let pod = self.sandbox_record(sandbox)?.filter(|record| self.is_ready(record));
        let pod = pod.ok_or_else(|| RuntimeError::NoSandbox(sandbox.clone()))?;
        let id = ContainerId(format!("{}_{}_{}", sandbox.0, spec.name, spec.attempt));
        if !is_safe_name(&id.0) {
            return Err(RuntimeError::CannotRun(format!("{:?} can't be a container's id", id.0)));
        }
        let _guard = self.locks.lock(&id.0).await;
        if self.container_record(&id)?.is_some() {
            return Ok(id);
        }
        let (shared, spec, making) = (Arc::clone(self), spec.clone(), id.clone());
        blocking("create a container", move || shared.write_container(&pod, &making, &spec)).await?;
        Ok(id)
    }

    fn write_container(&self, pod: &SandboxRecord, id: &ContainerId, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let found = self.config.images.get(&spec.image).map_err(other_at("look up the container's image"))?;
        let image = found.ok_or_else(|| RuntimeError::NoImage(spec.image.clone()))?;
        check(spec, &image)?;
        let cgroup = self.config.cgroup_parent.join(&pod.spec.uid).join(&id.0);
        let document = self.oci_document(pod, id, spec, &image, &cgroup)?;
        let writable = self.layout.writable(id);
        let config = ShimConfig {
            id: id.0.clone(),
            lower_dirs: image.layers.iter().rev().cloned().collect(),
            upper_dir: writable.join("upper"),
            work_dir: writable.join("work"),
            working_dir: spec::working_directory(spec, &image.config),
            log_path: spec.log_path.clone(),
            stdin: spec.stdin,
            shares_processes: pod.spec.of_node.processes,
            terminal: spec.tty,
            cgroup,
            log_limit: LogLimit { file_bytes: spec.log_limit.file_bytes, files: spec.log_limit.files },
            parts: spec::source_parts(spec, &self.layout.container(id)),
            detach: self.config.private_mounts.iter().cloned().chain([self.layout.all_namespaces()]).collect(),
        };
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: pod.spec.id.clone(),
            image_id: image.id.to_string(),
            image_pulled: image.pulled_as(&spec.image).map(str::to_owned),
            spec: spec.clone(),
        };
        let directory = self.layout.container(id);
        for path in [&directory, &config.upper_dir, &config.work_dir] {
            fs::create_dir_all(path).map_err(io_at("make a container's directories"))?;
        }
        files::write(&directory.join(files::SPEC), &document)
            .and_then(|()| files::write(&directory.join(files::SHIM_CONFIG), &config))
            // Last: with it the container exists. What a failure leaves without it is swept by the next open.
            .and_then(|()| files::write(&directory.join(CONTAINER), &record))
            .map_err(io_at("write a container's files"))
    }

    fn oci_document(
        &self,
        pod: &SandboxRecord,
        id: &ContainerId,
        spec: &ContainerSpec,
        image: &Image,
        cgroup: &Path,
    ) -> Result<serde_json::Value, RuntimeError> {
        let user = user::resolve(spec.user.as_deref().unwrap_or(&image.config.user), &image.layers)?;
        let own_score =
            fs::read_to_string("/proc/self/oom_score_adj").map_err(io_at("read this process's OOM score"))?;
        let directory = self.layout.container(id);
        Ok(spec::document(&Parts {
            container: spec,
            image: &image.config,
            binds: &image.binds,
            user: &user,
            capabilities: self.capabilities.of_container(spec, DeviceFilter::detect())?,
            namespaces: &self.layout.namespaces(&pod.spec.id),
            kinds: Kind::of(&pod.spec),
            processes_of_node: pod.spec.of_node.processes,
            hostname: &pod.spec.hostname,
            cgroup,
            oom_score_adj: own_score.trim().parse().unwrap_or(0),
            directory: &directory,
            protected: Protected::here(),
        }))
    }

    /// The work goes on when the caller goes away: a half-started container would be nobody's.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let (shared, id) = (Arc::clone(self), id.clone());
        let starting = self.tasks.spawn(async move { shared.start_now(&id).await });
        starting.await.map_err(other_at("start a container"))?
    }

    async fn start_now(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let _guard = self.locks.lock(&id.0).await;
        let record = self.container_record(id)?.ok_or_else(|| RuntimeError::NoContainer(id.clone()))?;
        if !matches!(self.state(id)?, ContainerState::Created) {
            return Ok(());
        }
        match self.spawn_shim(id).await? {
            StartReport::Started => {}
            StartReport::Busy => self.wait_for_other_shim(id).await?,
            StartReport::CannotRun { message } => {
                let _ = self.changes.send(Changed { sandbox: record.sandbox });
                return Err(RuntimeError::CannotRun(message));
            }
            StartReport::Failed { message } => return Err(other_at("create a container")(HelperFailure(message))),
        }
        self.weigh(&record.sandbox)?;
        self.watch(&record)?;
        let _ = self.changes.send(Changed { sandbox: record.sandbox });
        Ok(())
    }

    /// Gives the pod its part of the processor. After a start, since making the container's group is what turns the
    /// controller on for its pod's in version 2.
    fn weigh(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        if let Some(pod) = self.sandbox_record(sandbox)?
            && let Some(shares) = pod.spec.cpu_shares
            && let Err(error) = cgroup::set_cpu_shares(&self.config.cgroup_parent.join(&pod.spec.uid), shares)
        {
            tracing::warn!(%error, pod = pod.spec.name, "a pod keeps the default part of the processor");
        }
        Ok(())
    }

    pub(crate) async fn written_bytes(self: &Arc<Self>, id: &ContainerId) -> Result<u64, RuntimeError> {
        let writable = self.layout.writable(id).join("upper");
        blocking("measure a container", move || Ok(filetree::size(&writable))).await
    }

    pub(crate) fn refused_forks(&self, id: &ContainerId) -> Result<u64, RuntimeError> {
        let record = self.container_record(id)?.ok_or_else(|| RuntimeError::NoContainer(id.clone()))?;
        let pod = self.sandbox_record(&record.sandbox)?;
        Ok(pod.map_or(0, |pod| cgroup::refused_forks(&self.config.cgroup_parent.join(&pod.spec.uid).join(&id.0))))
    }

    /// The process that is spawned only forks the shim; what it hands on is one line.
    async fn spawn_shim(&self, id: &ContainerId) -> Result<StartReport, RuntimeError> {
        let directory = self.layout.container(id);
        let errors = fs::File::create(directory.join(SHIM_ERRORS)).map_err(io_at("make a file for a shim's errors"))?;
        let mut child = Command::new(&self.config.executable)
            .arg(SHIM)
            .arg(&directory)
            // Neither the agent's settings nor its sockets (LISTEN_FDS) are the container's business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(io_at("start a shim"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).await.map_err(io_at("read a shim's report"))?;
        }
        child.wait().await.map_err(io_at("wait for a shim's start"))?;
        serde_json::from_str(&line).map_err(|_| {
            let errors = fs::read_to_string(directory.join(SHIM_ERRORS)).unwrap_or_default();
            other_at("start a shim")(HelperFailure(format!("it said {line:?}; {errors}")))
        })
    }

    /// A shim of an agent before us is still at it.
    async fn wait_for_other_shim(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        let started = async {
            while matches!(self.state(id)?, ContainerState::Created) {
                tick.tick().await;
            }
            Ok(())
        };
        let timed_out =
            |_| io_at("wait for a container that is being started")(io::Error::from(io::ErrorKind::TimedOut));
        tokio::time::timeout(BUSY_FOR, started).await.map_err(timed_out)?
    }

    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        id: &ContainerId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let record = {
            // Not before a start that is under way has come to its end.
            let _guard = self.locks.lock(&id.0).await;
            let Some(record) = self.container_record(id)? else { return Ok(()) };
            if !matches!(self.state(id)?, ContainerState::Running { .. }) {
                return Ok(());
            }
            self.signal(id, signal)?;
            record
        };
        if signal != SIGKILL && tokio::time::timeout(grace, self.exited(&record)).await.is_err() {
            self.signal(id, SIGKILL)?;
        }
        self.exited(&record).await
    }

    pub(crate) async fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let _guard = self.locks.lock(&id.0).await;
        let Some(record) = self.container_record(id)? else { return Ok(()) };
        if matches!(self.state(id)?, ContainerState::Running { .. }) {
            return Err(RuntimeError::StillRunning(id.clone()));
        }
        let (shared, id) = (Arc::clone(self), id.clone());
        blocking("remove a container", move || shared.delete_files(&id, Some(&record))).await
    }

    /// Leaves only the log.
    pub(crate) fn delete_files(&self, id: &ContainerId, record: Option<&ContainerRecord>) -> Result<(), RuntimeError> {
        if let Some(pod) = record.and_then(|record| self.sandbox_record(&record.sandbox).ok().flatten()) {
            let group = self.config.cgroup_parent.join(&pod.spec.uid).join(&id.0);
            cgroup::remove_tree(&group).map_err(io_at("remove a container's control group"))?;
        }
        let directory = self.layout.container(id);
        // First what makes it a container: a half-deleted one must not be listed.
        for gone in [
            fs::remove_file(directory.join(CONTAINER)),
            filetree::remove(&self.layout.writable(id)),
            filetree::remove(&directory),
        ] {
            match gone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_at("remove a container's files")(error));
                }
                _ => {}
            }
        }
        self.watchers.forget(id);
        Ok(())
    }

    pub(crate) async fn containers(
        self: &Arc<Self>,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let (shared, sandbox) = (Arc::clone(self), sandbox.cloned());
        blocking("list containers", move || {
            let wanted = |record: &ContainerRecord| sandbox.as_ref().is_none_or(|id| *id == record.sandbox);
            shared
                .container_records()?
                .into_iter()
                .filter(wanted)
                .map(|record| shared.container_status(record))
                .collect()
        })
        .await
    }

    fn container_status(&self, record: ContainerRecord) -> Result<ContainerStatus, RuntimeError> {
        Ok(ContainerStatus {
            state: self.state(&record.id)?,
            id: record.id,
            sandbox: record.sandbox,
            name: record.spec.name,
            attempt: record.spec.attempt,
            image: record.spec.image,
            image_id: record.image_pulled.unwrap_or(record.image_id),
            log_path: record.spec.log_path,
            annotations: record.spec.annotations,
        })
    }

    pub(crate) fn container_records(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let ids = names(&self.layout.containers()).map_err(io_at("list containers"))?;
        ids.into_iter().map(|id| self.container_record(&ContainerId(id))).filter_map(Result::transpose).collect()
    }

    pub(crate) fn container_record(&self, id: &ContainerId) -> Result<Option<ContainerRecord>, RuntimeError> {
        if !is_safe_name(&id.0) {
            return Ok(None);
        }
        record::read(&self.layout.container(id).join(CONTAINER)).map_err(io_at("read a container's record"))
    }

    pub(crate) fn running(&self, id: &ContainerId) -> Result<Option<Running>, RuntimeError> {
        record::read(&self.layout.container(id).join(files::RUNNING)).map_err(io_at("read a container's processes"))
    }

    pub(crate) fn exit(&self, id: &ContainerId) -> Result<Option<ExitRecord>, RuntimeError> {
        let exit =
            record::read(&self.layout.container(id).join(files::EXIT)).map_err(io_at("read a container's exit"))?;
        Ok(exit.map(|exit| if self.is_interrupted(id) { farewell::interrupted(exit) } else { exit }))
    }

    pub(crate) fn state(&self, id: &ContainerId) -> Result<ContainerState, RuntimeError> {
        if let Some(exit) = self.exit(id)? {
            return Ok(ContainerState::Exited(Exit {
                code: exit.code,
                signal: exit.signal,
                started_at: exit.started_at,
                finished_at: exit.finished_at,
                reason: exit.reason,
                message: exit.message,
            }));
        }
        let running = self.running(id)?;
        Ok(running
            .map_or(ContainerState::Created, |running| ContainerState::Running { started_at: running.started_at }))
    }

    /// Signals the container's first process; no error when it has ended.
    pub(crate) fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        let Some(running) = self.running(id)? else { return Ok(()) };
        let Some(process) = running.init.open().map_err(io_at("find a container's process"))? else { return Ok(()) };
        match send(&process, signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(io_at("signal a container's process")(error))
            }
            _ => Ok(()),
        }
    }
}

/// What only the container's specification can be blamed for.
fn check(spec: &ContainerSpec, image: &Image) -> Result<(), RuntimeError> {
    if spec::arguments(spec, &image.config).is_empty() {
        return Err(RuntimeError::CannotRun("no command specified, and the image has none".to_owned()));
    }
    let missing = |path: &&PathBuf| !path.exists();
    if let Some(source) = spec.mounts.iter().map(|mount| &mount.source).find(missing) {
        return Err(RuntimeError::CannotRun(format!("mount source {} does not exist", source.display())));
    }
    match spec.mounts.iter().map(|mount| &mount.target).find(|target| !target.is_absolute()) {
        Some(target) => Err(RuntimeError::CannotRun(format!("mount target {} is not absolute", target.display()))),
        None => Ok(()),
    }
}

/// pidfd_send_signal(2), which takes real-time signals too.
#[allow(unsafe_code)]
fn send(process: &impl std::os::fd::AsRawFd, signal: i32) -> io::Result<()> {
    // SAFETY: the call reads the descriptor and the number; there is no further information to point to.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
