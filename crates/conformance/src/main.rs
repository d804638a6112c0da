//! Comparisons of ours with the originals; `cargo xtask conformance` gets the originals and runs one.

mod contest;
mod corefiles;
mod deployments;
mod dice;
mod dns;
mod endpoints;
mod packets;
mod side;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use conformance::{Originals, api, enter_own_network, kubectl};

#[derive(Parser)]
#[command(name = "conformance", about = "Sends the same to the originals and to ours, and lists what differs.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Corefiles, good and bad ones: whether CoreDNS takes them.
    Corefile(corefiles::Options),
    /// Generated requests: verdict, message, object.
    Api(api::Options),
    /// Random histories of Services, Pods and Nodes: the same endpoints as kube-controller-manager makes.
    Endpoints(endpoints::Options),
    /// Deployments and ReplicaSets through rollouts: the same objects as kube-controller-manager leaves.
    Deployments(deployments::Options),
    /// Questions about generated Services, Pods and slices: the same answers as CoreDNS gives.
    Dns(dns::Options),
    /// Scripted commands of the kubectls in PORTOLAN_TEST_KUBECTLS (a list like PATH): what they print.
    Kubectl(kubectl::Options),
    /// The packet table of the Service proxy through kube-proxy.
    Packets(packets::Options),
    /// Lists and watches by many clients during seeded writes: what they are told, and in which order.
    Watch(watch::Options),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    enter_own_network()?;
    let agree = match &cli.command {
        Command::Corefile(options) => corefiles::run(options)?,
        Command::Api(options) => {
            let originals = Originals::start(api::flags())?;
            runtime()?.block_on(api::run(options, &originals))?
        }
        Command::Endpoints(options) => {
            side_by_side(endpoints::setup(), async |contest| endpoints::run(contest, options).await)?
        }
        Command::Deployments(options) => {
            side_by_side(deployments::setup(), async |contest| deployments::run(contest, options).await)?
        }
        Command::Dns(options) => dns::run(options)?,
        Command::Kubectl(options) => {
            let originals = Originals::start(api::flags())?;
            runtime()?.block_on(kubectl::run(options, &originals))?
        }
        Command::Packets(options) => packets::run(options)?,
        Command::Watch(options) => {
            let runtime = runtime()?;
            let mut tally = watch::Tally::new(options);
            let originals = Originals::start(api::flags())?;
            runtime.block_on(watch::run(options, &originals, &mut tally))?;
            drop(originals);
            // Else its caches go on showing the past that its store has forgotten.
            let mut flags = api::flags().to_vec();
            flags.push("--feature-gates=ListFromCacheSnapshot=false");
            let originals = Originals::start(&flags)?;
            runtime.block_on(watch::run_compaction(&originals, &mut tally))?;
            tally.tell()?
        }
    };
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Starts both control planes and runs a comparison of their controllers.
fn side_by_side(setup: contest::Setup, compare: impl AsyncFnOnce(&contest::Contest) -> Result<bool>) -> Result<bool> {
    let originals = contest::originals(&setup)?;
    runtime()?.block_on(async {
        let contest = contest::Contest::start(&originals, &setup).await?;
        let agree = compare(&contest).await?;
        contest.stop().await?;
        Ok(agree)
    })
}
