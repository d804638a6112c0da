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
use proxy::battery::table::{self, Case, Expected, SERVICE_CIDRS, Sees, Sender, Stage};
use proxy_rig::{Rig, Tally, holds, playable, protocols};
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
    /// Where the kernel has it: `cargo xtask conformance` takes a guest with such a one.
    Ipvs,
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
    // What is waited for may not be among the few cases that are sent.
    for (stage, sent) in table::stages(&protocols()).into_iter().zip(playable()) {
        let rig = Rig::for_stage(&stage);
        let cluster = Cluster::start(&rig, originals).await?;
        cluster.populate(&stage).await?;
        let mut proxy = subject::start(options, stage.setup, &rig, &cluster)?;
        let begun = Instant::now();
        tokio::task::block_in_place(|| settle(options.in_table(), &mut proxy, &rig, &stage))?;
        let settled = begun.elapsed().as_secs_f64();
        let mut of_stage = Tally::default();
        tokio::task::block_in_place(|| of_stage.play(options.in_table(), &rig, &sent));
        // At once: a slow guest needs many minutes for all of them.
        of_stage.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
        let lasted = begun.elapsed().as_secs_f64();
        eprintln!("{:?}: {} cases, there after {settled:.1} s, sent after {lasted:.1} s", stage.setup, of_stage.cases);
        tally.add(of_stage);
        if options.minutes > 0 && stage.setup == table::Setup::Usual {
            let of_changes = change(options, &cluster, &mut proxy, &rig, &sent).await?;
            of_changes.complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
            tally.add(of_changes);
        }
        cluster.clear().await?;
    }
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
            (Subject::KubeProxy, Mode::Ipvs) => table::Mode::OriginalIpvs,
            (Subject::Portolan, Mode::Nftables) => table::Mode::Nftables,
            (Subject::Portolan, Mode::Iptables | Mode::IptablesLegacy) => table::Mode::Iptables,
            (Subject::Portolan, Mode::Ipvs) => table::Mode::Ipvs,
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables | Mode::IptablesLegacy => "iptables",
            Mode::Ipvs => "ipvs",
        }
    }
}

/// Waits until in each family something of every kind holds: a sync takes in everything of a family, but changes one part
/// of the kernel after the other. In ipvs mode virtual servers come first, at which connections arrive and other ports are
/// refused by the node itself, then the rules that masquerade, and those that guard a balancer's addresses last.
fn settle(mode: table::Mode, proxy: &mut Program, rig: &Rig, stage: &Stage) -> Result<()> {
    // A node's own address refuses by itself.
    let refuses = |case: &Case| mode.expects(case) == Expected::Rejected && !case.probe.target.is_the_nodes();
    let guards = |case: &Case| case.scene == "ranges" && mode.expects(case) == Expected::Silent;
    let reaches = |case: &Case| matches!(mode.expects(case), Expected::Reaches { .. });
    let masquerades = |case: &Case| {
        let by_the_node = matches!(mode.expects(case), Expected::Reaches { sees: Sees::TheNode, .. });
        by_the_node && matches!(case.probe.sender, Sender::Outside(_))
    };
    for family in IpFamily::BOTH {
        let of_family = || stage.cases.iter().filter(|case| case.probe.family == family);
        let reached = of_family().find(|case| reaches(case));
        let reached = reached.with_context(|| format!("{:?} reaches nobody by {family}", stage.setup))?;
        let others = [of_family().find(|case| refuses(case)), of_family().find(|case| masquerades(case))];
        let others = others.into_iter().flatten().chain(of_family().find(|case| guards(case)));
        for case in others.chain([reached]) {
            proxy.until(|_| holds(mode, rig, case)).with_context(|| case.to_string())?;
        }
    }
    Ok(())
}
