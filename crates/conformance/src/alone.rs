//! A network of its own for this process and everything it starts: nothing outside is reached, no port is taken twice.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::ADDRESS;

/// Moves the process into a fresh network and mount namespace with `lo`, and one link with an address and a default
/// route, as servers want to find. Call it before any thread exists: threads stay where they were made.
pub fn enter_own_network() -> Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").context("counting threads")?.count();
    ensure!(threads == 1, "namespaces are entered before threads are started; there are {threads}");
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(namespaces).context("making namespaces needs CAP_SYS_ADMIN: run this as root")?;
    let steps = [
        "link set lo up".to_owned(),
        "link add uplink type veth peer name outside".to_owned(),
        format!("address add {ADDRESS}/24 dev uplink"),
        "link set uplink up".to_owned(),
        "link set outside up".to_owned(),
        "route add default via 172.30.0.1".to_owned(),
    ];
    for step in steps {
        let status = Command::new("ip").args(step.split(' ')).status().context("running ip")?;
        ensure!(status.success(), "ip {step} ended with {status}");
    }
    Ok(())
}
