//! `cargo xtask bench`: figures side by side with a peer in one run. What is measured and how is in `crates/bench`, and in
//! the examples of the crates that measure themselves; here it is built, given the peers that are there, and run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{peers, step};

struct Bench {
    name: &'static str,
    about: &'static str,
    runs: Runs,
}

enum Runs {
    /// A command of the package `bench`, and the peers it compares with.
    System(&'static [&'static str]),
    /// An example of the package it measures.
    Example { package: &'static str, example: &'static str },
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "startup",
        about: "process start to API ready and to the first answer, and idle memory, beside kube-apiserver",
        runs: Runs::System(&["kube-apiserver", "etcd"]),
    },
    Bench {
        name: "propagation",
        about: "acknowledged write to the kernel's rule and to the DNS answer, on each of three nodes",
        runs: Runs::System(&[]),
    },
    Bench {
        name: "proxy-sync",
        about: "many Services into nf_tables (or --mode iptables, iptables-legacy), then single changes, beside the real kube-proxy",
        runs: Runs::System(&["kube-proxy"]),
    },
    Bench {
        name: "datapath",
        about: "what a connection through a Service costs: each mode, kube-proxy's, one hand-written rule, and none",
        runs: Runs::System(&["kube-proxy"]),
    },
    Bench {
        name: "pods",
        about: "pods in parallel until ready, and one until its first answer",
        runs: Runs::System(&[]),
    },
    Bench {
        name: "proxy-steps",
        about: "what of a sync is resolving, planning and committing, beside `nft -f` with kube-proxy's layout",
        runs: Runs::Example { package: "proxy-nftables", example: "sync_cost" },
    },
    Bench {
        name: "iptables-steps",
        about: "the same for iptables, by the tools of both flavours",
        runs: Runs::Example { package: "proxy-iptables", example: "sync_cost" },
    },
    Bench {
        name: "relay-cost",
        about: "userspace mode's relay beside the way without it: one stream, and connection after connection",
        runs: Runs::Example { package: "proxy-userspace", example: "relay_cost" },
    },
];

/// Runs one benchmark with what else it is told, or lists them.
pub fn run(name: Option<&str>, arguments: &[String]) -> Result<()> {
    let Some(name) = name else {
        for bench in BENCHES {
            eprintln!("{:<14} {}", bench.name, bench.about);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|b| b.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|b| b.name).collect();
        bail!("no benchmark {name:?}; there are {}", names.join(", "));
    };
    match bench.runs {
        Runs::Example { package, example } => {
            let mut run = step::cargo();
            run.args(["run", "--release", "-p", package, "--example", example, "--"]).args(arguments);
            step::run(bench.about, &mut run)
        }
        Runs::System(needed) => {
            // The product as well: what is measured is its binary, found beside the benchmark's.
            let mut build = step::cargo();
            build.args(["build", "--release", "-p", "portolan", "-p", "bench"]);
            step::run("build what is measured", &mut build)?;
            // Cargo puts both where it put us.
            let ours = std::env::current_exe().context("cannot find our own executable")?;
            let mut run = Command::new(ours.with_file_name("bench"));
            run.arg(name).args(arguments).args(peers_of(needed)?);
            step::run(bench.about, &mut run)
        }
    }
}

/// Where the peers are; one that isn't there is named with how to get it.
fn peers_of(needed: &[&str]) -> Result<Vec<PathBuf>> {
    let mut arguments = Vec::new();
    for name in needed {
        match peers::at_hand(name)? {
            Some(path) => arguments.extend([format!("--{name}").into(), path]),
            None => eprintln!("── {name} isn't there to compare with: `cargo xtask peers {name}` builds it"),
        }
    }
    Ok(arguments)
}
