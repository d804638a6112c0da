//! Benchmarks of whole systems and real processes: each figure in one run, beside a peer where there is one, with the
//! bar it is held to. Run by `cargo xtask bench`. Measures and prints; asserts nothing.

mod datapath;
mod figures;
mod lab;
mod memory;
mod objects;
mod peers;
mod pods;
mod process;
mod propagation;
mod proxy_log;
mod proxy_sync;
mod report;
mod sightings;
mod source;
mod startup;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use report::Report;

#[derive(Parser)]
#[command(name = "bench", about = "Benchmarks of whole systems and real processes.")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    output: Output,
    #[command(flatten)]
    peers: Peers,
}

/// Where the originals are; what isn't given is left out of the comparison.
#[derive(Args)]
pub struct Peers {
    #[arg(long, value_name = "PATH", global = true)]
    pub kube_proxy: Option<PathBuf>,
    #[arg(long, value_name = "PATH", global = true)]
    pub kube_apiserver: Option<PathBuf>,
    #[arg(long, value_name = "PATH", global = true)]
    pub etcd: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum Bench {
    /// Process start to API ready and to the first Service answered, cold; memory of an idle system.
    Startup(startup::Options),
    /// Acknowledged API write to the kernel's rule and to the DNS answer, on each of three nodes.
    Propagation(propagation::Options),
    /// Programming Services into nf_tables or by iptables, beside the real kube-proxy.
    ProxySync(proxy_sync::Options),
    /// What a connection through a Service costs: each mode, kube-proxy's, one hand-written rule, and none.
    Datapath(datapath::Options),
    /// Pods in parallel, and from a pod's creation to its first answer.
    Pods(pods::Options),
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    process::end_with_us()?;
    let mut report = Report::new();
    match &cli.bench {
        Bench::Startup(options) => startup::run(options, &cli.peers, &mut report)?,
        Bench::Propagation(options) => propagation::run(options, &mut report)?,
        Bench::ProxySync(options) => proxy_sync::run(options, &cli.peers, &mut report)?,
        Bench::Datapath(options) => datapath::run(options, &cli.peers, &mut report)?,
        Bench::Pods(options) => pods::run(options, &mut report)?,
    }
    match cli.output {
        Output::Table => report.print_table(),
        Output::Json => report.print_json()?,
    }
    Ok(())
}
