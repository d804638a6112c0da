//! The Service proxy's packet table, with real packets, through a proxy that is a process of its own: kube-proxy or ours,
//! on a node that watches our API server or the real one with the table's objects in it. Where the original differs is
//! written down in `proxy::battery::table`; anything else that differs is a finding. Not responsible for our backends
//! alone: their crates' tests send the same table.

mod changes;
mod cluster;
mod subject;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use conformance::{Originals, Program};
use proxy::battery::table::{self, Case, Expected, SERVICE_CIDRS, Stage};
use proxy_rig::{Rig, Tally, holds, protocols};
use service_model::IpFamily;

use changes::Changes;
use cluster::Cluster;

/// How long a proxy may take to follow the last of many changes.
const FOLLOWS: Duration = Duration::from_secs(60);
/// Of changes, between two looks at the whole table.
const ROUND: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value_t = Mode::Nftables)]
    mode: Mode,
    #[arg(long, value_enum, default_value_t = Subject::KubeProxy)]
    subject: Subject,
    /// Which API server it watches. Beside the real one is the real kube-controller-manager.
    #[arg(long, value_enum, default_value_t = Api::Ours)]
    api: Api,
    /// Change Services and their endpoints at random for so many minutes, put them right and send the table every minute.
    #[arg(long, default_value_t = 0)]
    minutes: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Nftables,
    /// By the tools on nf_tables.
    Iptables,
    /// By those on the kernel's older tables.
    IptablesLegacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    KubeProxy,
    /// `portolan proxy`.
    Portolan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Api {
    Ours,
    Real,
}

/// Blocks. To be called from the main thread, which the programs must not outlive.
pub fn run(options: &Options) -> Result<bool> {
    let originals = match options.api {
        Api::Ours => None,
        Api::Real => {
            let range = format!("--service-cluster-ip-range={}", SERVICE_CIDRS.join(","));
            let mut originals = Originals::start(&[&range])?;
            originals.controller_manager(&[&range])?;
            Some(originals)
        }
    };
    crate::runtime()?.block_on(through_all(options, originals.as_ref()))
}

async fn through_all(options: &Options, originals: Option<&Originals>) -> Result<bool> {
    let mut tally = Tally::default();
    for stage in table::stages(&protocols()) {
        let rig = Rig::for_stage(&stage);
        let cluster = Cluster::start(&rig, originals).await?;
        cluster.populate(&stage).await?;
        let mut proxy = subject::start(options, stage.setup, &rig, &cluster)?;
        tokio::task::block_in_place(|| settle(options.in_table(), &mut proxy, &rig, &stage))?;
        tokio::task::block_in_place(|| tally.play(options.in_table(), &rig, &stage));
        eprintln!("{:?}: {} cases", stage.setup, stage.cases.len());
        if options.minutes > 0 && stage.setup == table::Setup::Usual {
            tally.add(change(options, &cluster, &mut proxy, &rig, &stage).await?);
        }
        cluster.clear().await?;
    }
    tally.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    eprintln!("{tally}");
    Ok(tally.complaints.is_empty())
}

/// Minutes of changes, after each of which the table has to be as it's written, soon.
async fn change(options: &Options, cluster: &Cluster, proxy: &mut Program, rig: &Rig, stage: &Stage) -> Result<Tally> {
    let mut changes = Changes::new(cluster.client(), stage, options.seed);
    let mut tally = Tally::default();
    for minute in 1..=options.minutes {
        let made = changes.make_for(ROUND).await?;
        changes.put_right().await?;
        let begun = Instant::now();
        let of_round = loop {
            let mut round = Tally::default();
            tokio::task::block_in_place(|| round.play(options.in_table(), rig, stage));
            proxy.until(|_| true)?;
            if round.complaints.is_empty() || begun.elapsed() > FOLLOWS {
                break round;
            }
        };
        eprintln!(
            "minute {minute}: {made} changes, {} cases, {} not as written",
            of_round.cases,
            of_round.complaints.len()
        );
        tally.add(of_round);
    }
    Ok(tally)
}

impl Options {
    fn in_table(&self) -> table::Mode {
        match (self.subject, self.mode) {
            (Subject::KubeProxy, Mode::Nftables) => table::Mode::OriginalNftables,
            (Subject::KubeProxy, Mode::Iptables | Mode::IptablesLegacy) => table::Mode::OriginalIptables,
            (Subject::Portolan, Mode::Nftables) => table::Mode::Nftables,
            (Subject::Portolan, Mode::Iptables | Mode::IptablesLegacy) => table::Mode::Iptables,
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        if self == Mode::Nftables { "nftables" } else { "iptables" }
    }
}

/// Waits until in each family connections arrive and are refused: a sync takes in everything of a family, but iptables'
/// tables (nat for the one, filter for the other) change one after the other.
fn settle(mode: table::Mode, proxy: &mut Program, rig: &Rig, stage: &Stage) -> Result<()> {
    let reaches = |case: &Case| matches!(mode.expects(case), Expected::Reaches { .. });
    // A node's own address refuses by itself.
    let refuses = |case: &Case| mode.expects(case) == Expected::Rejected && !case.probe.target.is_the_nodes();
    for family in IpFamily::BOTH {
        let of_family = || stage.cases.iter().filter(|case| case.probe.family == family);
        let reached = of_family().find(|case| reaches(case));
        let reached = reached.with_context(|| format!("{:?} reaches nobody by {family}", stage.setup))?;
        for case in std::iter::once(reached).chain(of_family().find(|case| refuses(case))) {
            proxy.until(|_| holds(rig, case)).with_context(|| case.to_string())?;
        }
    }
    Ok(())
}
