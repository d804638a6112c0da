//! `portolan run`: a program of the host inside a pod's or a node's network, with that pod's names.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::cli::Run;
use crate::commands::block_on;
use crate::system::{DataDir, NodeRecord, Record, SocketPath};
use crate::up::parts;

/// Replaces this process by the program; returns only when it can't.
pub fn run(options: &Run) -> Result<ExitCode> {
    let dir = DataDir::open(&options.system.data_dir)?;
    let record = if dir.locked()? { Record::load(&dir)? } else { None };
    let Some(record) = record else {
        bail!("nothing runs on {}; start it with `portolan up --data-dir {0}`", dir.path().display());
    };
    // The runtime has threads; namespaces are entered after it is gone.
    let place = match &options.pod {
        Some(pod) => block_on(pod_place(&dir, &record, pod))?,
        None => node_place(&dir, &record, options.node.as_deref())?,
    };
    enter(&place)?;
    let (program, arguments) = options.command.split_first().context("no program")?;
    let error = Command::new(program).args(arguments).exec();
    Err(anyhow::Error::new(error).context(format!("cannot run {}", program.display())))
}

/// Where the program is to run.
struct Place {
    network: PathBuf,
    /// The `/etc/resolv.conf` it sees.
    resolv_conf: PathBuf,
}

async fn pod_place(dir: &DataDir, record: &Record, pod: &str) -> Result<Place> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let found = Api::<Pod>::namespaced(client(dir)?, namespace).get_opt(name).await.context("cannot read the pod")?;
    let found = found.ok_or_else(|| anyhow!("there is no pod {namespace}/{name}"))?;
    let uid = found.metadata.uid.clone().unwrap_or_default();
    let Some(node) = found.spec.as_ref().and_then(|s| s.node_name.clone()) else {
        bail!("pod {namespace}/{name} is on no node yet");
    };
    let node = known(record, Some(&node))?;
    let node_dir = dir.node(&node.name);
    let Some(pin) = parts::sandbox_pin(&node_dir, &uid)? else {
        bail!(
            "pod {namespace}/{name} has no network of its own: it hasn't started, or uses its node's (--node {})",
            node.name
        );
    };
    Ok(Place { network: inside(node, &pin), resolv_conf: parts::pod_resolv_conf(&node_dir, &uid) })
}

fn node_place(dir: &DataDir, record: &Record, name: Option<&str>) -> Result<Place> {
    let node = known(record, name)?;
    let network = format!("/proc/{}/ns/net", node.init).into();
    Ok(Place { network, resolv_conf: parts::node_resolv_conf(&dir.node(&node.name)) })
}

fn known<'a>(record: &'a Record, name: Option<&str>) -> Result<&'a NodeRecord> {
    record.node(name).ok_or_else(|| {
        let names: Vec<&str> = record.nodes.iter().map(|n| n.name.as_str()).collect();
        anyhow!("there is no node {}; there are {}", name.unwrap_or_default(), names.join(", "))
    })
}

fn client(dir: &DataDir) -> Result<kube::Client> {
    let socket = dir.api_socket();
    // Connects lazily, by this path: it has to outlive the call.
    let path = SocketPath::new(&socket).context("the API's socket")?;
    let client = ::runtime::transport::unix(path.as_path());
    std::mem::forget(path);
    Ok(client)
}

/// A path of the node's own mount namespace, seen from the host.
fn inside(node: &NodeRecord, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", node.init));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Enters the network, and a mount namespace of its own in which resolv.conf is the pod's.
fn enter(place: &Place) -> Result<()> {
    let entering = || format!("cannot enter the network {} (CAP_SYS_ADMIN is needed)", place.network.display());
    let network = fs::File::open(&place.network).with_context(entering)?;
    setns(&network, CloneFlags::CLONE_NEWNET).with_context(entering)?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace (CAP_SYS_ADMIN is needed)")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("cannot make mounts private")?;
    bind_resolv_conf(&place.resolv_conf).context("cannot put the pod's resolv.conf in place")
}

fn bind_resolv_conf(source: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let target = match fs::canonicalize("/etc/resolv.conf") {
        Ok(target) => target,
        // Nothing there, or a link to nothing: a program without names is better than none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    Ok(mount(Some(source), &target, none, MsFlags::MS_BIND, none)?)
}
