//! Where benchmarks happen: network namespaces of their own with a loopback, a scratch directory, and whole systems in
//! them. Nothing of it outlives its owner, and nothing of the machine's own network is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use netns::NetNs;
use serde_json::Value;
use testkit::Temporary;

use crate::process::{Process, portolan};

/// What `up` says when everything answers.
const READY: &str = "export KUBECONFIG=";
const STARTS: Duration = Duration::from_secs(60);

/// A namespace whose loopback is up.
pub fn namespace() -> Result<NetNs> {
    let namespace = NetNs::new().context("benchmarks make network namespaces: run them as root")?;
    run(&namespace, &["ip", "link", "set", "lo", "up"])?;
    Ok(namespace)
}

/// Runs a program in a namespace to its end.
pub fn run(namespace: &NetNs, words: &[&str]) -> Result<String> {
    let (program, arguments) = words.split_first().context("no program")?;
    let ran = namespace.run(|| Command::new(program).args(arguments).output())?;
    let output = ran.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{}: {}: {}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A whole system that runs in a namespace of its own.
pub struct System {
    process: Process,
    pub namespace: NetNs,
    data_dir: PathBuf,
    // After the process that uses it.
    _scratch: Temporary,
}

impl System {
    /// Starts `up` with a fresh data directory; it's not ready yet.
    pub fn start(arguments: &[&str]) -> Result<System> {
        let (namespace, scratch) = (namespace()?, Temporary::new());
        let data_dir = scratch.path().join("data");
        let mut command = Command::new(portolan()?);
        command.arg("up").arg("--data-dir").arg(&data_dir).args(arguments);
        let process = Process::start(&namespace, command, &scratch.path().join("up.log"))?;
        Ok(System { process, namespace, data_dir, _scratch: scratch })
    }

    /// Starts a system and waits until it says that it's ready.
    pub fn up(arguments: &[&str]) -> Result<System> {
        let mut system = System::start(arguments)?;
        system.process.until("a system that answers", STARTS, |up| up.said().contains(READY).then_some(()))?;
        Ok(system)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A client by the system's socket. Has to be made inside an event loop.
    pub fn client(&self) -> Client {
        runtime::transport::unix(&self.data_dir.join("run/sockets/api.sock"))
    }

    /// The network namespace of a node.
    pub fn node(&self, name: &str) -> Result<NetNs> {
        let record = fs::read(self.data_dir.join("run/system.json")).context("cannot read the system's record")?;
        let record: Value = serde_json::from_slice(&record).context("the system's record")?;
        let nodes = record["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let node = nodes.iter().find(|node| node["name"] == name).with_context(|| format!("no node {name}"))?;
        let init = node["init"].as_i64().context("a node without a process")?;
        Ok(NetNs::of_process(i32::try_from(init)?)?)
    }

    /// Ends it and waits.
    pub fn end(self) -> Result<()> {
        self.process.end()
    }
}

/// A file of the repository.
pub fn example(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).to_string_lossy().into_owned()
}

/// An event loop with few threads, in the namespace it is made in.
pub fn event_loop(namespace: &NetNs) -> Result<tokio::runtime::Runtime> {
    let made = namespace.run(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
    made.context("cannot make an event loop")
}
