//! What the tests need of the machine: capabilities, and programs from Debian's packages. Installs what it can; what it
//! can't, it names. Nothing is skipped for want of a program.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::step;

/// Programs the tests run, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("nft", "nftables"),
    ("iptables-nft", "iptables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("dig", "bind9-dnsutils"),
    ("curl", "curl"),
    ("ping", "iputils-ping"),
    ("git", "git"),
    ("cc", "gcc"),
];

/// Finds or installs every program the tests run, and more; holds that they may do what they do.
pub fn prepare(more: &[&[(&str, &str)]]) -> Result<()> {
    prepare_for("the tests", &[&[PROGRAMS], more].concat().concat())?;
    capabilities()
}

/// Finds or installs programs, given with the Debian package of each.
pub fn prepare_for(purpose: &str, programs: &[(&str, &str)]) -> Result<()> {
    let missing = || programs.iter().filter(|(program, _)| find(program).is_none()).collect::<Vec<_>>();
    let packages: Vec<&str> = missing().iter().map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        install(&packages)?;
    }
    let still = missing();
    if !still.is_empty() {
        let list: Vec<String> =
            still.iter().map(|(program, package)| format!("{program} (package {package})")).collect();
        bail!("{purpose}: this machine lacks {}: install them", list.join(", "));
    }
    Ok(())
}

/// Finds or installs a module of Debian's own Python, given with its package.
pub fn python_module(purpose: &str, module: &str, package: &str) -> Result<()> {
    let there = || {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", &format!("import {module}")]).stderr(std::process::Stdio::null());
        python.status().is_ok_and(|status| status.success())
    };
    if !there() {
        install(&[package])?;
    }
    if !there() {
        bail!("{purpose}: /usr/bin/python3 has no module {module} (package {package})");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("the tests need these Debian packages or their like: {}", packages.join(" "));
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    step::run("apt-get update", apt().args(["-qq", "update"]))?;
    step::run("apt-get install", apt().args(["-qq", "install", "--yes", "--no-install-recommends"]).args(packages))
}

/// CAP_NET_ADMIN (12) and CAP_SYS_ADMIN (21): namespaces, links, rules, mounts.
fn capabilities() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("0").trim().to_owned();
    let effective = u64::from_str_radix(&effective, 16).unwrap_or(0);
    for (bit, name) in [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")] {
        if effective & (1 << bit) == 0 {
            bail!("the tests make namespaces, links and rules and need {name}: run them as root");
        }
    }
    Ok(())
}

/// A program by name on PATH, or where an administrator's programs lie.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|p| p.is_file())
}
