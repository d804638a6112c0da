//! Our proxy and the real kube-proxy as processes against one API server, in the same mode, each in a network namespace
//! without rules: the first sync of many Services, single changes, many changes a second, a restart, and idling. In turn,
//! round by round.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns::NetNs;

use crate::figures::{Samples, milliseconds};
use crate::lab;
use crate::objects::{SERVICES, SLICES, create_all, endpoint, replace, service, slice};
use crate::process::Process;
use crate::report::{Report, Row};
use crate::sightings::Sightings;
use crate::source::{Mode, Source};
use crate::{Peers, memory, proxy_log};

/// A first sync, or one change, takes no longer.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a proxy is watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value_t = Mode::Nftables)]
    mode: Mode,
    /// How many Services, one size after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000, 10_000])]
    services: Vec<usize>,
    /// Endpoints of each.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of the peer.
    #[arg(long, default_value_t = 1)]
    peer_rounds: usize,
    /// Changes of each kind in a round; the peer gets three.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// Changes at a hundred a second.
    #[arg(long, default_value_t = 1_000)]
    many: usize,
}

/// What a proxy took, over all its rounds.
#[derive(Default)]
struct Measured {
    full: Samples,
    replaced: Samples,
    added: Samples,
    removed: Samples,
    /// From the acknowledged write to the commit, both seen from outside.
    outside: Samples,
    /// Each sync while there are many changes a second.
    hurried: Samples,
    /// The first sync of a proxy that finds its rules.
    again: Samples,
    peak: Samples,
    /// With the programs it runs.
    family_peak: Samples,
    resident: Samples,
    cpu: Samples,
    again_cpu: Samples,
    /// Processor time a second while nothing happens.
    idle: Samples,
}

/// How to run and read one proxy, and what is asked of it.
struct Contender<'a> {
    start: &'a dyn Fn(&NetNs) -> Result<Process>,
    syncs: fn(&str) -> Vec<Duration>,
    changes: usize,
    /// Changes in a hurry.
    many: usize,
    mode: Mode,
    services: usize,
    endpoints: usize,
}

pub fn run(options: &Options, peers: &Peers, report: &mut Report) -> Result<()> {
    for services in &options.services {
        size(*services, options, peers.kube_proxy.as_deref(), report)?;
    }
    match &peers.kube_proxy {
        None => report.note("The peer, kube-proxy, is missing: `cargo xtask peers kube-proxy` builds it."),
        Some(_) => report.note(format!(
            "The peer is kube-proxy 1.36 in {:?} mode, watching the same API server. Syncs are taken from either's own \
             log: ours from the last event to the commit, kube-proxy's from the begin of its sync to the commit. Processor \
             time is also that of the programs they ran.",
            options.mode
        )),
    }
    Ok(())
}

fn size(services: usize, options: &Options, kube_proxy: Option<&Path>, report: &mut Report) -> Result<()> {
    let (endpoints, mode) = (options.endpoints, options.mode);
    eprintln!("{services} Services with {endpoints} endpoints");
    let source = Source::start()?;
    populate(&source, services, endpoints)?;
    let (mut ours, mut peer) = (Measured::default(), Measured::default());
    for round in 0..options.rounds {
        let start = |namespace: &NetNs| source.ours(namespace, mode, "proxy");
        let (changes, many) = (options.changes, options.many);
        let contender = Contender { start: &start, syncs: proxy_log::ours, changes, many, mode, services, endpoints };
        contender.round(&source, &lab::namespace()?, &mut ours)?;
        if let Some(program) = kube_proxy.filter(|_| mode.has_original() && round < options.peer_rounds) {
            let namespace = lab::namespace()?;
            source.serve_in(&namespace)?;
            let start = |namespace: &NetNs| source.original(program, namespace, mode, "kube-proxy");
            let (changes, syncs) = (options.changes.min(3), proxy_log::kube_proxy as fn(&str) -> Vec<Duration>);
            let contender = Contender { start: &start, syncs, changes, many, mode, services, endpoints };
            contender.round(&source, &namespace, &mut peer)?;
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    source.end();
    tell(&format!("{services} × {endpoints}"), (mode, services, endpoints), &ours, &peer, report);
    Ok(())
}

fn tell(
    size: &str,
    (mode, services, endpoints): (Mode, usize, usize),
    ours: &Measured,
    peer: &Measured,
    report: &mut Report,
) {
    let row = |what: &str, unit, ours: &Samples, peer: &Samples| {
        let row = Row::new(format!("{size}: {what}"), unit, ours.median());
        row.spread(ours.least(), ours.most()).peer(peer.median())
    };
    let full = row("first sync", "ms", &ours.full, &peer.full);
    report.row(match (mode, services, endpoints) {
        (Mode::Nftables, 5_000, 10) => full.times(20.0),
        (Mode::Nftables, 10_000, 10) => full.times(30.0),
        (Mode::Nftables, 30_000, 2) => full.at_most(2_000.0),
        (Mode::Iptables | Mode::IptablesLegacy, 1_000, 10) => full.times(1.0),
        _ => full,
    });
    report.row(row("processor time to there", "ms", &ours.cpu, &peer.cpu));
    report.row(row("first sync of one that finds its rules", "ms", &ours.again, &peer.again));
    report.row(row("processor time to there", "ms", &ours.again_cpu, &peer.again_cpu));
    let large = (mode, services, endpoints) == (Mode::Nftables, 10_000, 10);
    let peak = row("resident, at most", "MiB", &ours.peak, &peer.peak);
    report.row(if large { peak.at_most(64.0) } else { peak });
    report.row(row("… with the programs it runs", "MiB", &ours.family_peak, &peer.family_peak));
    let resident = row("resident, idle", "MiB", &ours.resident, &peer.resident);
    report.row(if large { resident.times(4.0) } else { resident });
    report.row(row("processor time a second, idle", "ms", &ours.idle, &peer.idle));
    for (what, ours, peer, bar) in [
        ("an endpoint replaced", &ours.replaced, &peer.replaced, 1.0),
        ("an endpoint added", &ours.added, &peer.added, 3.0),
        ("an endpoint removed", &ours.removed, &peer.removed, 3.0),
    ] {
        let row = row(&format!("{what}, median"), "ms", ours, peer);
        report.row(match mode {
            Mode::Nftables => row.at_most(bar),
            Mode::Iptables | Mode::IptablesLegacy => row.times(3.0),
            Mode::Userspace => row,
        });
        report.row(Row::new(format!("{size}: {what}, p99"), "ms", ours.percentile(99)));
    }
    let hurried =
        Row::new(format!("{size}: a sync under 100 changes a second, p99"), "ms", ours.hurried.percentile(99));
    let hurried = hurried.peer(peer.hurried.percentile(99));
    report.row(if mode.is_nftables() { hurried.at_most(5.0) } else { hurried });
    if mode != Mode::IptablesLegacy {
        report.row(row("acknowledged write → commit, median", "ms", &ours.outside, &peer.outside));
    }
}

fn populate(source: &Source, services: usize, endpoints: usize) -> Result<()> {
    source.threads.block_on(async {
        let client = &source.client;
        create_all(client, (0..services).map(|number| (SERVICES, service(&name(number), None)))).await?;
        create_all(client, (0..services).map(|number| (SLICES, of(number, endpoints, 0, 0)))).await
    })
}

impl Contender<'_> {
    /// Starts a proxy, waits for its first sync, makes one change after the other, then many, and starts it again.
    fn round(&self, source: &Source, namespace: &NetNs, measured: &mut Measured) -> Result<()> {
        let mut proxy = (self.start)(namespace)?;
        let mut family_peak = 0.0_f64;
        let first = proxy.until("the first sync", LIMIT, |proxy| {
            family_peak = family_peak.max(memory::family_resident(proxy.pid()) as f64 / 1024.0);
            self.syncs(proxy).first().copied()
        })?;
        measured.full.push_time(first);
        measured.cpu.push(memory::cpu(proxy.pid())?);
        // A second one may follow: of what came during the first, or of kube-proxy's clean-up.
        std::thread::sleep(Duration::from_secs(2));
        let before = memory::cpu(proxy.pid())?;
        std::thread::sleep(IDLE);
        measured.idle.push((memory::cpu(proxy.pid())? - before) / IDLE.as_secs_f64());
        measured.resident.push(memory::resident(proxy.pid())? as f64 / 1024.0);
        self.one_by_one(source, namespace, &mut proxy, measured)?;
        self.many_at_once(source, &mut proxy, measured)?;
        let peak = memory::peak(proxy.pid())? as f64 / 1024.0;
        measured.peak.push(peak);
        measured.family_peak.push(family_peak.max(peak));
        proxy.end()?;
        let mut proxy = (self.start)(namespace)?;
        let first = proxy.until("the first sync", LIMIT, |proxy| self.syncs(proxy).first().copied())?;
        measured.again.push_time(first);
        measured.again_cpu.push(memory::cpu(proxy.pid())?);
        proxy.end()
    }

    fn syncs(&self, proxy: &Process) -> Vec<Duration> {
        (self.syncs)(&proxy.said())
    }

    fn one_by_one(
        &self,
        source: &Source,
        namespace: &NetNs,
        proxy: &mut Process,
        measured: &mut Measured,
    ) -> Result<()> {
        let endpoints = self.endpoints;
        // The older tables tell nobody of their changes.
        let sightings = (self.mode != Mode::IptablesLegacy).then(|| Sightings::begin(namespace)).transpose()?;
        for change in 0..self.changes {
            let number = change * 7 % self.services;
            // Replaced, added, removed, and back to where it was: the next round finds what this one found.
            for (step, (count, variant)) in
                [(endpoints, 1), (endpoints + 1, 1), (endpoints, 1), (endpoints, 0)].into_iter().enumerate()
            {
                let known = self.syncs(proxy).len();
                let object = of(number, endpoints, variant, count - endpoints);
                let fresh: Option<Ipv4Addr> = match step {
                    0 => Some(endpoint(number, 0, variant).parse()?),
                    1 => Some(endpoint(number, endpoints, 0).parse()?),
                    _ => None,
                };
                for (sightings, address) in sightings.iter().zip(&fresh) {
                    sightings.expect(&address.octets());
                }
                source.threads.block_on(replace(&source.client, SLICES, &object))?;
                let acknowledged = Instant::now();
                let took = proxy.until("a sync", LIMIT, |proxy| self.syncs(proxy).get(known).copied())?;
                match step {
                    1 => measured.added.push_time(took),
                    2 => measured.removed.push_time(took),
                    _ => measured.replaced.push_time(took),
                }
                if let (Some(sightings), Some(address)) = (&sightings, fresh) {
                    let seen = sightings.seen(&address.octets(), LIMIT).context("a commit that wasn't seen")?;
                    measured.outside.push(milliseconds(seen.saturating_duration_since(acknowledged)));
                }
            }
        }
        Ok(())
    }

    /// A hundred changes a second, each of another Service, whatever the proxy makes of them.
    fn many_at_once(&self, source: &Source, proxy: &mut Process, measured: &mut Measured) -> Result<()> {
        let known = self.syncs(proxy).len();
        for variant in [1, 0] {
            source.threads.block_on(async {
                let mut turns = tokio::time::interval(Duration::from_millis(10));
                for change in 0..self.many / 2 {
                    turns.tick().await;
                    let object = of((change * 13 + 5) % self.services, self.endpoints, variant, 0);
                    replace(&source.client, SLICES, &object).await?;
                }
                Ok::<_, anyhow::Error>(())
            })?;
        }
        if self.many > 0 {
            proxy.until("a sync", LIMIT, |proxy| (self.syncs(proxy).len() > known).then_some(()))?;
        }
        self.syncs(proxy).drain(known..).for_each(|took| measured.hurried.push_time(took));
        Ok(())
    }
}

fn name(number: usize) -> String {
    format!("s{number}")
}

/// A Service's slice: its endpoints, the first one by variant, and so many more.
fn of(number: usize, endpoints: usize, variant: usize, more: usize) -> serde_json::Value {
    let addresses: Vec<String> =
        (0..endpoints + more).map(|at| endpoint(number, at, if at == 0 { variant } else { 0 })).collect();
    slice(&name(number), &addresses)
}
