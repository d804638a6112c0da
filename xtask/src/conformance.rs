//! `cargo xtask conformance`: gets the originals and runs one comparison of crate `conformance` beside them. Outside the
//! test suite, since building the originals takes minutes.

use anyhow::{Result, bail};

use crate::guest::comparison;
use crate::{machine, peers, step};

struct Comparison {
    name: &'static str,
    about: &'static str,
    peers: &'static [&'static str],
}

/// Each is a subcommand of crate `conformance`'s binary.
const COMPARISONS: &[Comparison] = &[
    Comparison {
        name: "api",
        about: "generated requests to the real kube-apiserver and to ours: verdict, message, object",
        peers: &["etcd", "kube-apiserver"],
    },
    Comparison {
        name: "corefile",
        about: "Corefiles, good and bad ones, through the real CoreDNS and ours: whether they are taken",
        peers: &["coredns"],
    },
    Comparison {
        name: "endpoints",
        about: "random histories of Services, Pods and Nodes against the real kube-controller-manager: endpoints, writes",
        peers: &["etcd", "kube-apiserver", "kube-controller-manager"],
    },
    Comparison {
        name: "deployments",
        about: "rollouts against the real kube-controller-manager: objects at the end, limits on the way, writes",
        peers: &["etcd", "kube-apiserver", "kube-controller-manager"],
    },
    Comparison {
        name: "dns",
        about: "questions about generated Services, Pods and slices to the real CoreDNS and to ours: answers",
        peers: &["coredns", "etcd", "kube-apiserver"],
    },
    Comparison {
        name: "kubectl",
        about: "scripted commands of every kubectl from 1.29 on, against the real server and ours: what it prints",
        peers: &["etcd", "kube-apiserver", "kubectl"],
    },
    Comparison {
        name: "packets",
        about: "the Service proxy's packet table through kube-proxy (--mode ipvs: in a guest), or ours beside the real API server",
        peers: &["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"],
    },
    Comparison {
        name: "watch",
        about: "lists and watches by many clients (raw, kube-rs, kubectl) during seeded writes: what each is told",
        peers: &["etcd", "etcdctl", "kube-apiserver", "kubectl"],
    },
];

/// The kubectls that are compared, oldest first.
const KUBECTLS: std::ops::RangeInclusive<u32> = 29..=36;

/// Runs one comparison, or lists them.
pub fn run(name: Option<&str>, arguments: &[String]) -> Result<()> {
    let Some(name) = name else {
        for comparison in COMPARISONS {
            eprintln!("{:<12} {}", comparison.name, comparison.about);
        }
        return Ok(());
    };
    let Some(comparison) = COMPARISONS.iter().find(|c| c.name == name) else {
        let names: Vec<&str> = COMPARISONS.iter().map(|c| c.name).collect();
        bail!("no comparison {name:?}; there are {}", names.join(", "));
    };
    for peer in comparison.peers {
        peers::built(peer)?;
    }
    let others: &[&str] = if says(arguments, "--subject", "portolan") { &["portolan"] } else { &[] };
    if !others.is_empty() {
        step::run("the other side", step::cargo().args(["build", "--release", "--package", "portolan"]))?;
    }
    // Of a kernel with IPVS.
    if says(arguments, "--mode", "ipvs") {
        if says(arguments, "--api", "real") {
            bail!("the guest has our API server alone: leave --api real away");
        }
        return comparison::run(name, arguments, others);
    }
    if name == "dns" {
        machine::python_module("the second decoder", "dns", "python3-dnspython")?;
    }
    let mut run = step::cargo();
    run.args(["run", "--release", "--quiet", "--package", "conformance", "--", name]).args(arguments);
    if name == "kubectl" {
        let kubectls: Vec<_> = KUBECTLS.map(|minor| peers::kubectl(&format!("1.{minor}"))).collect::<Result<_>>()?;
        run.env("PORTOLAN_TEST_KUBECTLS", std::env::join_paths(kubectls)?);
    }
    step::run(name, &mut run)
}

/// Whether a flag has this value, in either spelling.
fn says(arguments: &[String], flag: &str, value: &str) -> bool {
    let at_once = format!("{flag}={value}");
    arguments.contains(&at_once) || arguments.windows(2).any(|pair| pair[0] == flag && pair[1] == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_known_in_either_spelling() {
        let says = |line: &str| says(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), "--mode", "ipvs");
        assert!(says("--mode ipvs") && says("--subject portolan --mode=ipvs"));
        assert!(!says("--mode iptables") && !says("--minutes 10"));
    }
}
