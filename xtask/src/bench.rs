//! `cargo xtask bench`: each figure side by side with a peer in one run, as a ratio.

use anyhow::{Result, bail};

use crate::step;

struct Bench {
    name: &'static str,
    about: &'static str,
    package: &'static str,
    example: &'static str,
}

/// Every benchmark is an example of the crate it measures: it runs both sides, interleaved, and prints the ratio.
const BENCHES: &[Bench] = &[Bench {
    name: "proxy-sync",
    about: "program Services into nf_tables, beside `nft -f` with kube-proxy's layout",
    package: "proxy-nftables",
    example: "sync_cost",
}];

/// Runs one benchmark, or lists them.
pub fn run(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        for bench in BENCHES {
            eprintln!("{:<20} {}", bench.name, bench.about);
        }
        return Ok(());
    };
    let Some(bench) = BENCHES.iter().find(|b| b.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|b| b.name).collect();
        bail!("no benchmark {name:?}; there are {}", names.join(", "));
    };
    step::run(bench.about, step::cargo().args(["run", "--release", "-p", bench.package, "--example", bench.example]))
}
