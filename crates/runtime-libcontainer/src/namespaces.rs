//! A pod's namespaces without a process in them: made by a thread that ends at once, kept by mounts.
//!
//! Not responsible for links and addresses in them, except `lo`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use pod_runtime::{RuntimeError, SandboxNetwork, SandboxSpec};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::failure::io_at;

/// statfs(2)'s magic of a namespace file.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// As container runtimes set it: a pod's ports are its own, no privilege needed.
const UNPRIVILEGED_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// As container runtimes have it.
const SHARED_MEMORY: &std::ffi::CStr = c"mode=1777,size=65536k";
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// One kind of namespace, by its name in `/proc/<pid>/ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Net,
    Uts,
    Ipc,
}

impl Kind {
    /// Which a sandbox has of its own. On the node's network it has the node's name too.
    pub(crate) fn of(sandbox: &SandboxSpec) -> &'static [Kind] {
        match (&sandbox.network, sandbox.of_node.ipc) {
            (SandboxNetwork::Pod, false) => &[Kind::Net, Kind::Uts, Kind::Ipc],
            (SandboxNetwork::Pod, true) => &[Kind::Net, Kind::Uts],
            (SandboxNetwork::Node, false) => &[Kind::Ipc],
            (SandboxNetwork::Node, true) => &[],
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
        }
    }

    /// As the OCI runtime specification calls it.
    pub(crate) fn oci(self) -> &'static str {
        match self {
            Self::Net => "network",
            other => other.file(),
        }
    }

    pub(crate) fn pin(self, directory: &Path) -> PathBuf {
        directory.join(self.file())
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::Net => UnshareFlags::NEWNET,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Ipc => UnshareFlags::NEWIPC,
        }
    }
}

/// The directory that a pod's containers share as `/dev/shm`: a part of IPC by POSIX, though not of the kernel's
/// namespace.
pub(crate) fn shared_memory(directory: &Path) -> PathBuf {
    directory.join("shm")
}

/// What a pod's namespaces are given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) hostname: String,
    pub(crate) sysctls: BTreeMap<String, String>,
}

/// Whether every namespace is pinned in `directory`.
pub(crate) fn are_pinned(directory: &Path, kinds: &[Kind]) -> bool {
    let pinned = |kind: &Kind| rustix::fs::statfs(kind.pin(directory)).is_ok_and(|stat| stat.f_type == NSFS_MAGIC);
    kinds.iter().all(pinned)
}

/// Makes the namespaces and pins them. Repeatable: what is there stays, what is half there is made anew.
pub(crate) fn make(directory: &Path, kinds: &'static [Kind], settings: Settings) -> Result<(), RuntimeError> {
    if are_pinned(directory, kinds) {
        return Ok(());
    }
    remove(directory)?;
    fs::create_dir_all(directory).map_err(io_at("make a pod's directory of namespaces"))?;
    let directory = directory.to_owned();
    // A thread of its own: it ends in the pod's namespaces, and no other work must ever run on it.
    let made = thread::Builder::new()
        .name("pod-namespaces".to_owned())
        .spawn(move || make_here(&directory, kinds, &settings))
        .map_err(io_at("start a thread"))?
        .join();
    made.unwrap_or_else(|_| Err(io_at("make a pod's namespaces")(std::io::Error::other("the thread panicked"))))
}

/// Lets go of the namespaces: they end with the last process or socket in them.
pub(crate) fn remove(directory: &Path) -> Result<(), RuntimeError> {
    for kind in [Kind::Net, Kind::Uts, Kind::Ipc] {
        // Once per mount on it; INVAL means there's none (left), NOENT no file.
        while unmount(kind.pin(directory), UnmountFlags::DETACH).is_ok() {}
    }
    while unmount(shared_memory(directory), UnmountFlags::DETACH).is_ok() {}
    filetree::remove(directory).map_err(io_at("remove a pod's directory of namespaces"))
}

#[allow(unsafe_code)]
fn make_here(directory: &Path, kinds: &[Kind], settings: &Settings) -> Result<(), RuntimeError> {
    let flags = kinds.iter().fold(UnshareFlags::empty(), |flags, kind| flags | kind.flag());
    // SAFETY: none of these namespaces is shared memory's or descriptors' business, and this thread does nothing else.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io_at("make a pod's namespaces (needs CAP_SYS_ADMIN)"))?;
    if kinds.contains(&Kind::Uts) {
        rustix::system::sethostname(settings.hostname.as_bytes()).map_err(io_at("set a pod's host name"))?;
    }
    if kinds.contains(&Kind::Net) {
        shim::loopback::raise().map_err(io_at("raise a pod's lo"))?;
        // Not in every kernel or container; without them a pod needs the capability, as it used to.
        for (file, value) in [(UNPRIVILEGED_PORTS, "0"), (PING_GROUPS, "0 2147483647")] {
            if let Err(error) = fs::write(file, value) {
                tracing::debug!(file, %error, "a pod's network keeps the kernel's default");
            }
        }
    }
    // Of this thread's namespaces: the kernel looks the file up for whoever opens it.
    for (name, value) in &settings.sysctls {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(file, value).map_err(|error| RuntimeError::CannotRun(format!("sysctl {name}={value}: {error}")))?;
    }
    if kinds.contains(&Kind::Ipc) {
        let shared = shared_memory(directory);
        fs::create_dir_all(&shared).map_err(io_at("make a pod's shared memory"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shm", &shared, "tmpfs", flags, SHARED_MEMORY).map_err(io_at("mount a pod's shared memory"))?;
    }
    // Last: whatever is pinned is whole.
    for kind in kinds {
        let pin = kind.pin(directory);
        fs::File::create(&pin).map_err(io_at("make a file to pin a namespace to"))?;
        mount_bind(format!("/proc/thread-self/ns/{}", kind.file()), &pin).map_err(io_at("pin a pod's namespace"))?;
    }
    Ok(())
}
