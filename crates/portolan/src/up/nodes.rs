//! Nodes: starting each one's init, plugging it into the fabric, ending it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netns::NetNs;
use shim::{Bind, Child, NodeInitConfig, NodeReady, OnExit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child as Process, ChildStdin, Command};

use super::fabric::Fabric;
use super::parts;
use crate::system::{DataDir, NodeRecord};

/// Where a node sees what is bound into it.
pub const API_SOCKET: &str = "/run/portolan/api.sock";
pub const PULL_SOCKET: &str = "/run/portolan/pull.sock";
pub const KUBELET_DIR: &str = "/run/portolan/kubelet";
pub const NODE_DIR: &str = "/run/portolan/node";
/// The image store is `images` in it.
pub const IMAGES_PARENT: &str = "/run/portolan";
pub const EXECUTABLE: &str = "/run/portolan/portolan";

/// How long a node's init may take to end when it is asked to.
const END: Duration = Duration::from_secs(15);

/// A node that runs. Dropping it ends the node: its lifeline closes.
pub struct Node {
    pub record: NodeRecord,
    init: Process,
    lifeline: ChildStdin,
}

/// What a node is started with.
pub struct Start<'a> {
    pub dir: &'a DataDir,
    pub index: u32,
    pub name: &'a str,
    pub cgroup: &'a str,
    pub parts: &'a parts::Configs,
}

impl Node {
    /// Starts a node's init and its processes, once its link is there.
    pub async fn start(start: &Start<'_>, fabric: &Fabric) -> Result<Self> {
        let config = write_config(start)?;
        let log = start.dir.logs().join(format!("{}.log", start.name));
        let log = fs::File::options().create(true).append(true).open(&log);
        let log = log.with_context(|| format!("cannot open the log of {}", start.name))?;
        let mut command = std::process::Command::new("/proc/self/exe");
        // A group of its own, so that the terminal's Ctrl-C reaches the supervisor alone.
        command
            .arg(shim::NODE_INIT)
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        let mut init = Command::from(command).spawn().context("cannot start a node's init")?;
        let (Some(mut lifeline), Some(output)) = (init.stdin.take(), init.stdout.take()) else {
            bail!("a node's init has no pipes");
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await.context("cannot hear from a node's init")?;
        let ready: NodeReady = serde_json::from_str(&line)
            .with_context(|| format!("node {} did not start; see {}", start.name, start.dir.logs().display()))?;
        fabric.attach(start.index, &NetNs::of_process(ready.pid)?).await?;
        lifeline.write_all(b"g").await.context("a node's init is gone")?;
        lifeline.flush().await.context("a node's init is gone")?;
        let starter = init.id().and_then(|id| i32::try_from(id).ok()).context("a node's init is gone")?;
        Ok(Node { record: NodeRecord { name: start.name.to_owned(), init: ready.pid, starter }, init, lifeline })
    }

    /// Waits until the node ends by itself, which it should not.
    pub async fn ended(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.init.wait().await
    }

    /// Closes the lifeline and waits for the node's end.
    pub async fn end(self) -> Result<()> {
        let Node { record, mut init, lifeline } = self;
        drop(lifeline);
        match tokio::time::timeout(END, init.wait()).await {
            Ok(ended) => ended.map(drop).with_context(|| format!("cannot wait for node {}", record.name)),
            Err(_) => {
                init.kill().await.with_context(|| format!("cannot kill node {}", record.name))?;
                bail!("node {} had to be killed", record.name)
            }
        }
    }
}

fn write_config(start: &Start<'_>) -> Result<PathBuf> {
    let node_dir = start.dir.node(start.name);
    let kubelet = start.dir.kubelet_dir(start.name);
    for made in [&node_dir, &kubelet] {
        start.dir.make(made)?;
    }
    start.parts.write(&node_dir)?;
    let executable = std::env::current_exe().context("cannot find our own executable")?;
    let bind = |source: PathBuf, target: &str| Bind { source, target: target.into(), read_only: false };
    let config = NodeInitConfig {
        hostname: start.name.to_owned(),
        network_namespace: None,
        lifeline: 0,
        wait_for_go: true,
        tmpfs: vec!["/run".into()],
        binds: vec![
            bind(start.dir.api_socket(), API_SOCKET),
            bind(start.dir.pull_socket(), PULL_SOCKET),
            bind(kubelet, KUBELET_DIR),
            bind(node_dir.clone(), NODE_DIR),
            bind(start.dir.images(), &format!("{IMAGES_PARENT}/images")),
            Bind { source: executable, target: EXECUTABLE.into(), read_only: true },
        ],
        children: parts::PARTS.iter().map(|part| child(start, part)).collect(),
        stop_grace_ms: 5_000,
        cgroup: Some(Path::new("/").join(start.cgroup).join(start.name)),
    };
    let path = node_dir.join("init.json");
    let text = serde_json::to_vec_pretty(&config).context("cannot encode a node's configuration")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn child(start: &Start<'_>, part: &parts::Part) -> Child {
    Child {
        name: part.name.to_owned(),
        argv: vec![EXECUTABLE.to_owned(), part.command.to_owned(), format!("{NODE_DIR}/{}.json", part.name)],
        env: part.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        log: start.dir.logs().join(format!("{}-{}.log", start.name, part.name)),
        on_exit: OnExit::Restart,
    }
}
