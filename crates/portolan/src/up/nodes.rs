//! Nodes: starting each one's init, plugging it into the fabric, taking over one that was left running, ending it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netns::NetNs;
use rustix::process::Signal;
use shim::{Bind, Child, NodeInitConfig, NodeReady, OnExit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::fabric::Fabric;
use super::network::Plan;
use super::parts;
use crate::cli::Up;
use crate::system::{DataDir, NodeRecord, Process};

/// Where a node sees what is bound into it.
const SOCKETS_DIR: &str = "/run/portolan/sockets";
pub const API_SOCKET: &str = "/run/portolan/sockets/api.sock";
pub const PULL_SOCKET: &str = "/run/portolan/sockets/pull.sock";
pub const KUBELET_DIR: &str = "/run/portolan/kubelet";
pub const NODE_DIR: &str = "/run/portolan/node";
/// The image store is `images` in it.
pub const IMAGES_PARENT: &str = "/run/portolan";
pub const EXECUTABLE: &str = "/run/portolan/portolan";

/// How long a node's init may take to end when it is asked to.
const END: Duration = Duration::from_secs(15);
/// How long one that ends already may take.
const CLEAR: Duration = Duration::from_secs(1);
/// How long a node goes on without a supervisor. Another `up` takes the node over meanwhile; without one it ends, since
/// nothing would ever ask it to.
const GRACE: Duration = Duration::from_secs(60);

/// A node that runs. Dropping it lets go of its lifeline.
pub struct Node {
    pub record: NodeRecord,
    /// The process whose end is the node's. It need not be our child.
    starter: Process,
    lifeline: File,
}

/// What a node is started with.
pub struct Start {
    pub dir: DataDir,
    pub index: u32,
    pub name: String,
    parts: parts::Configs,
}

impl Start {
    /// Those of a system's nodes.
    pub fn all(options: &Up, plan: &Plan, dir: &DataDir) -> Vec<Start> {
        let one = |index| {
            let name = format!("node-{}", index + 1);
            let parts = parts::Configs::new(plan, &name, index, &dir.cgroup(), options.proxy_mode);
            Start { dir: dir.clone(), index, name, parts }
        };
        (0..options.nodes).map(one).collect()
    }
}

impl Node {
    /// Starts a node's init and plugs it in. Its processes start with `go`, after somebody has written down that it is
    /// there: without that word it ends with us.
    pub async fn start(start: &Start, fabric: &Fabric) -> Result<Self> {
        write_config(start)?;
        let log = start.dir.logs().join(format!("{}.log", start.name));
        let log = File::options().create(true).append(true).open(&log);
        let log = log.with_context(|| format!("cannot open the log of {}", start.name))?;
        let mut command = std::process::Command::new("/proc/self/exe");
        // A group of its own, so that the terminal's Ctrl-C reaches the supervisor alone. The node keeps the fabric:
        // it outlives us if we are killed.
        command
            .arg(shim::NODE_INIT)
            .arg(config_path(start))
            .arg(fabric.descriptor())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        // Whoever drops a child of tokio's leaves waiting for it to the runtime.
        let mut init = Command::from(command).spawn().context("cannot start a node's init")?;
        let (Some(lifeline), Some(output)) = (init.stdin.take(), init.stdout.take()) else {
            bail!("a node's init has no pipes");
        };
        let lifeline = File::from(lifeline.into_owned_fd().context("a node's lifeline")?);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.context("cannot hear from a node's init")?;
        let ready: NodeReady = serde_json::from_str(&line)
            .with_context(|| format!("node {} did not start; see {}", start.name, start.dir.logs().display()))?;
        fabric.attach(start.index, &NetNs::of_process(ready.pid)?).await?;
        let starter = init.id().and_then(|id| i32::try_from(id).ok()).context("a node's init is gone")?;
        let record = NodeRecord { name: start.name.clone(), init: ready.pid, starter };
        let starter = Process::open(starter).context("a node's init is gone")?;
        Ok(Node { record, starter, lifeline })
    }

    /// Lets its processes start, if they haven't.
    pub fn go(&mut self) {
        self.say(shim::LIFELINE_GO);
    }

    /// A byte always fits into a pipe. One that has ended doesn't listen, and is found out by `ended`.
    fn say(&mut self, word: u8) {
        let _ = self.lifeline.write_all(&[word]);
    }

    /// Takes over a node that an earlier supervisor left running, if it is the node that would be started now.
    pub fn take_over(start: &Start, record: &NodeRecord) -> Result<Option<Self>> {
        let mark = config_path(start).to_string_lossy().into_owned();
        let (Some(starter), Some(_)) = (Process::find(record.starter, &mark), Process::find(record.init, &mark)) else {
            return Ok(None);
        };
        let executable =
            |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|found| (found.dev(), found.ino())).ok();
        let same = executable("self").is_some() && executable("self") == executable(&record.starter.to_string());
        if !same || !written(start)? {
            return Ok(None);
        }
        let Ok(lifeline) = lifeline(record.starter) else { return Ok(None) };
        let mut node = Node { record: record.clone(), starter, lifeline };
        // Its supervisor may have been killed just before.
        node.go();
        // From here on it stays, unless it had begun to end.
        Ok((!node.starter.wait(Duration::ZERO)?).then_some(node))
    }

    /// Waits until the node ends by itself, which it should not.
    pub async fn ended(&self) -> Result<()> {
        self.starter.ended().await
    }

    /// Sees to it that nothing of a node that ends or has ended is left that a new one could meet.
    pub async fn clear(start: &Start, record: &NodeRecord) -> Result<()> {
        let mark = config_path(start).to_string_lossy().into_owned();
        for id in [record.init, record.starter] {
            let Some(process) = Process::find(id, &mark) else { continue };
            if tokio::time::timeout(CLEAR, process.ended()).await.is_err() {
                process.signal(Signal::KILL)?;
                process.ended().await?;
            }
        }
        Ok(())
    }

    /// Tells the node to end, again when `hurry` is cancelled, and waits for it.
    pub async fn end(mut self, hurry: CancellationToken) -> Result<()> {
        self.say(shim::LIFELINE_END);
        let hurried = async {
            tokio::select! {
                ended = self.ended() => return ended,
                () = hurry.cancelled() => {}
            }
            // As in `say`.
            let _ = (&self.lifeline).write_all(&[shim::LIFELINE_END]);
            self.ended().await
        };
        if tokio::time::timeout(END, hurried).await.is_err() {
            if let Some(init) = Process::open(self.record.init) {
                init.signal(Signal::KILL)?;
            }
            bail!("node {} had to be killed", self.record.name)
        }
        Ok(())
    }
}

/// The end of a node's lifeline that a supervisor holds.
pub fn lifeline(starter: i32) -> std::io::Result<File> {
    File::options().write(true).open(format!("/proc/{starter}/fd/0"))
}

fn config_path(start: &Start) -> PathBuf {
    start.dir.node(&start.name).join("init.json")
}

/// Whether what a node runs with is what would be written now.
fn written(start: &Start) -> Result<bool> {
    let same = fs::read(config_path(start)).ok() == Some(encoded_config(start)?);
    Ok(same && start.parts.written(&start.dir.node(&start.name))?)
}

fn write_config(start: &Start) -> Result<()> {
    let node_dir = start.dir.node(&start.name);
    for made in [&node_dir, &start.dir.kubelet_dir(&start.name)] {
        start.dir.make(made)?;
    }
    start.parts.write(&node_dir)?;
    let path = config_path(start);
    fs::write(&path, encoded_config(start)?).with_context(|| format!("cannot write {}", path.display()))
}

fn encoded_config(start: &Start) -> Result<Vec<u8>> {
    let (node_dir, kubelet) = (start.dir.node(&start.name), start.dir.kubelet_dir(&start.name));
    let executable = std::env::current_exe().context("cannot find our own executable")?;
    let bind = |source: PathBuf, target: &str| Bind { source, target: target.into(), read_only: false };
    let config = NodeInitConfig {
        hostname: start.name.clone(),
        network_namespace: None,
        lifeline: 0,
        wait_for_go: true,
        lifeline_grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
        tmpfs: vec!["/run".into()],
        binds: vec![
            bind(start.dir.sockets(), SOCKETS_DIR),
            bind(kubelet, KUBELET_DIR),
            bind(node_dir.clone(), NODE_DIR),
            bind(start.dir.images(), &format!("{IMAGES_PARENT}/images")),
            Bind { source: executable, target: EXECUTABLE.into(), read_only: true },
        ],
        children: parts::PARTS.iter().map(|part| child(start, part)).collect(),
        // More than the agent gives the containers.
        stop_grace_ms: 5_000,
        cgroup: Some(Path::new("/").join(start.dir.cgroup()).join(&start.name)),
    };
    serde_json::to_vec_pretty(&config).context("cannot encode a node's configuration")
}

fn child(start: &Start, part: &parts::Part) -> Child {
    Child {
        name: part.name.to_owned(),
        argv: vec![EXECUTABLE.to_owned(), part.command.to_owned(), format!("{NODE_DIR}/{}.json", part.name)],
        env: part.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        log: start.dir.logs().join(format!("{}-{}.log", start.name, part.name)),
        on_exit: OnExit::Restart,
        end_signal: part.end_signal,
    }
}
