//! What a node agent asks of whatever runs its pods: a trait shaped after the Container Runtime Interface (CRI v1).
//!
//! Not responsible for Kubernetes objects (the agent translates) nor for any way of running a container
//! (`runtime-libcontainer` is one).

pub mod battery;
pub mod signal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// A pod sandbox: the namespaces its containers share. Chosen by the agent; unique on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// A container. Chosen by the runtime; unique on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// What a sandbox is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    pub id: SandboxId,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub hostname: String,
    pub network: SandboxNetwork,
    /// Which namespaces it has from the node instead of its own.
    #[serde(default)]
    pub of_node: OfNode,
    /// Ports of the node that lead to it; for the `PodNetwork`.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Kernel settings of its namespaces, by their dotted names.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// The pod's part of the processor against other pods', as cgroup 1 counts it (1024 a core); none is the kernel's
    /// default.
    #[serde(default)]
    pub cpu_shares: Option<u64>,
    /// Kept with the sandbox and handed back by `sandboxes`.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the node that leads to one of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    pub protocol: PortProtocol,
    /// On this address of the node alone; none is all.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortProtocol {
    Tcp,
    Udp,
    Sctp,
}

impl PortProtocol {
    /// IANA's number.
    pub fn number(self) -> u8 {
        match self {
            PortProtocol::Tcp => 6,
            PortProtocol::Udp => 17,
            PortProtocol::Sctp => 132,
        }
    }
}

/// What a sandbox's containers share with the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfNode {
    /// They see the node's processes, and the node's see theirs (`hostPID`).
    pub processes: bool,
    /// System V IPC, POSIX message queues and shared memory (`hostIPC`).
    pub ipc: bool,
}

/// Which network a sandbox has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SandboxNetwork {
    /// Its own namespace, attached by the runtime's `PodNetwork`.
    Pod,
    /// The node's (`hostNetwork`).
    Node,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub spec: SandboxSpec,
    pub ready: bool,
    /// The pod's addresses, primary family first; the node's own are not listed for `SandboxNetwork::Node`.
    pub addresses: Vec<IpAddr>,
    /// A file that `setns(2)` takes, for what must run inside the pod's network (probes, port-forward).
    pub network_namespace: Option<PathBuf>,
    /// Unix seconds.
    pub created_at: i64,
}

/// What a container is made from. Nothing here comes from the image: empty `command` means the image's entrypoint,
/// empty `args` (with an empty `command`) its command, as in CRI.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub name: String,
    /// Counts the starts of this container in its pod, from 0.
    pub attempt: u32,
    /// A reference that `image` resolves.
    pub image: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    /// In order; a later one wins. They win over the image's.
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    /// `uid[:gid]` or a name; none means the image's.
    pub user: Option<String>,
    pub supplemental_groups: Vec<u32>,
    pub read_only_root: bool,
    pub privileged: bool,
    pub no_new_privileges: bool,
    /// Without the `CAP_` prefix, as in a Pod; `ALL` is understood.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub resources: Resources,
    /// Where the runtime writes CRI log lines: `RFC3339Nano stdout|stderr F|P text`.
    pub log_path: PathBuf,
    #[serde(default)]
    pub log_limit: LogLimit,
    pub tty: bool,
    pub stdin: bool,
    pub annotations: BTreeMap<String, String>,
}

/// How much of a container's output is kept. The file at `log_path` is the newest; older ones have `.1`, `.2` and so on
/// added to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimit {
    /// A file that would grow beyond it is put aside.
    pub file_bytes: u64,
    /// The newest included.
    pub files: u32,
}

impl Default for LogLimit {
    /// kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
    fn default() -> Self {
        LogLimit { file_bytes: 10 << 20, files: 5 }
    }
}

impl LogLimit {
    /// Everything that the log at `path` may consist of, newest first.
    pub fn files_of(&self, path: &std::path::Path) -> Vec<PathBuf> {
        let older = (1..self.files).map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        });
        std::iter::once(path.to_owned()).chain(older).collect()
    }
}

/// A file or directory of the node, bound into the container.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    /// What is bound instead of the whole source: a path in it that must be there. Links on the way are followed as
    /// long as they stay inside: whoever may write to the source must not reach the node's other files.
    #[serde(default)]
    pub inside: Option<PathBuf>,
    pub target: PathBuf,
    pub read_only: bool,
}

/// Limits; none is no limit. Units as in CRI's LinuxContainerResources.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    /// Processes and threads.
    #[serde(default)]
    pub pids_limit: Option<i64>,
    /// A wish: a runtime without CAP_SYS_RESOURCE can only raise its own value.
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub sandbox: SandboxId,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    /// What was pulled: the repository and the digest that its registry has it under, `host/path@sha256:…`. Otherwise the
    /// digest of the image's configuration, `sha256:…`.
    pub image_id: String,
    pub state: ContainerState,
    pub log_path: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

/// Times are Unix seconds with nanoseconds as a fraction lost: Kubernetes shows whole seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running { started_at: i64 },
    Exited(Exit),
}

/// The `reason` of an exit that nobody saw (kubelet's word; its exit code then is 137).
pub const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// The process's own code, or 128 + signal.
    pub code: i32,
    pub signal: Option<i32>,
    pub started_at: i64,
    pub finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` (as kubelet and runtimes name them), [`STATUS_UNKNOWN`].
    pub reason: String,
    /// What went wrong, for `ContainerCannotRun` and [`STATUS_UNKNOWN`].
    pub message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Digest of the configuration, `sha256:…`.
    pub id: String,
    /// Normalised names, `docker.io/library/busybox:latest`; what was pulled also by its digest.
    pub tags: Vec<String>,
    pub size_bytes: u64,
    /// The signal number the image asks to be stopped with, SIGTERM when it says nothing.
    pub stop_signal: i32,
    /// The user the image runs as, `uid[:gid]` or names; empty is root. For `runAsNonRoot`.
    pub user: String,
}

/// A Secret with credentials for registries; the runtime finds in it those for an image.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    pub name: String,
    /// Of type `kubernetes.io/dockercfg`, not `kubernetes.io/dockerconfigjson`.
    pub legacy: bool,
    /// JSON, as in the Secret's data.
    pub document: String,
}

/// Its content appears in no log.
impl std::fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Something happened: look again. Carries no truth (`containers` does).
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub sandbox: SandboxId,
}

/// The failed step, and why.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no such sandbox: {0:?}")]
    NoSandbox(SandboxId),
    #[error("no such container: {0:?}")]
    NoContainer(ContainerId),
    /// Not on this node; the agent decides whether to pull.
    #[error("image {0:?} is not on this node")]
    NoImage(String),
    #[error("cannot pull image {reference:?}: {message}")]
    Pull { reference: String, message: String },
    /// Not the name of any image.
    #[error("couldn't parse image name {reference:?}: {message}")]
    InvalidImageName { reference: String, message: String },
    /// The container's own doing: no such command, not executable, bad user. Shown as a `StartError`.
    #[error("{0}")]
    CannotRun(String),
    /// The command of an `exec` was killed at the end of its timeout.
    #[error("the command did not end within {0:?}")]
    ExecTimeout(Duration),
    /// `exec` or another call that needs a running container.
    #[error("container {0:?} is not running")]
    NotRunning(ContainerId),
    /// `remove_container` needs one that isn't.
    #[error("container {0:?} is still running")]
    StillRunning(ContainerId),
    #[error("{step}: {source}")]
    Io {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{step}: {source}")]
    Other {
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Gives a sandbox's network namespace its links and addresses, and takes them away: the role of a CNI plugin.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Idempotent: the same sandbox keeps its addresses.
    async fn attach(&self, sandbox: &SandboxSpec, namespace: &std::path::Path) -> Result<Vec<IpAddr>, RuntimeError>;
    /// Idempotent; the namespace may be gone already.
    async fn detach(&self, sandbox: &SandboxId) -> Result<(), RuntimeError>;
}

/// Runs pods. Every call may be repeated: making what is there, or ending what is gone, succeeds.
#[async_trait]
pub trait PodRuntime: Send + Sync + 'static {
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError>;
    /// Ends every container (SIGKILL) and the network; the sandbox stays listed, not ready.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    /// Stops it first if need be; leaves nothing but logs.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError>;
    /// Nothing happens to one that was started before, even if it has exited: another `attempt` is another container.
    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Sends `signal`, waits up to `grace`, then SIGKILL. Returns when the container has exited.
    async fn stop_container(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<(), RuntimeError>;
    /// The node ends. Sends `signal` to a container that would do anything about it, and returns when that has ended; the
    /// others are left to the node's end. However it ends, it will be listed with [`STATUS_UNKNOWN`]: it was interrupted,
    /// and did not do what it was for.
    async fn end_with_node(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError>;
    /// Only of an exited or merely created container.
    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// All containers, or one sandbox's.
    async fn containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError>;

    /// Runs a command in a running container. `timeout` zero means none; at the end of it the command is killed.
    async fn exec(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError>;

    /// What a container has written to its root, on disk.
    async fn written_bytes(&self, id: &ContainerId) -> Result<u64, RuntimeError>;
    /// How often a running container was refused another process because of `Resources::pids_limit`.
    async fn refused_forks(&self, id: &ContainerId) -> Result<u64, RuntimeError>;

    /// None when the image isn't on the node.
    async fn image(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError>;
    /// Brings the image here, or makes sure that what is here is what its registry has. Dropping the future ends it.
    async fn pull(&self, reference: &str, secrets: &[PullSecret]) -> Result<ImageStatus, RuntimeError>;
    async fn images(&self) -> Result<Vec<ImageStatus>, RuntimeError>;

    /// Wake-ups for containers that started or exited.
    fn changes(&self) -> broadcast::Receiver<Changed>;
}
