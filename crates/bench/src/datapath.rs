//! What a connection through a Service costs beside one without: straight to the pod, by one hand-written rule, by each
//! of our modes and by kube-proxy's, at several numbers of Services and of endpoints. All ways are there at the same
//! time and are measured in turn, round by round, so that each figure has its pair of the same moment.

mod load;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::figures::{Samples, milliseconds};
use crate::lab::run as ran;
use crate::objects::{SERVICES, SLICES, create, create_all, endpoint, service, slice};
use crate::report::{Report, Row};
use crate::source::{Mode, Source};
use crate::{Peers, figures};
use load::Places;
use way::{SERVER_PORT, Way, endpoints};

const DIRECT: &str = "straight to the pod";
const ONE_RULE: &str = "one hand-written rule";
/// What a proxy may take until it serves the last Service of many.
const PROGRAMMED: Duration = Duration::from_secs(600);
/// A round's connections are made in so many turns of all ways: what else the machine does meets all alike.
const TURNS: usize = 10;
/// Requests on one connection in a round, and bytes in one direction.
const REQUESTS: usize = 2_000;
const BYTES: usize = 256 << 20;

#[derive(clap::Args)]
pub struct Options {
    /// How many other Services there are, one number after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    services: Vec<usize>,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Nftables, Mode::Iptables, Mode::Userspace])]
    modes: Vec<Mode>,
    /// Rounds: pairs of figures.
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Connections of each way in a round.
    #[arg(long, default_value_t = 2_000)]
    connections: usize,
    /// Rounds in which requests and bytes are measured, too.
    #[arg(long, default_value_t = 7)]
    long_rounds: usize,
    /// Rules that are measured, too: files for `nft -f` that lead 10.111.255.1:80 to 10.244.2.1:8080.
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// Client and server share a processor, instead of having one each.
    #[arg(long)]
    one_processor: bool,
    /// More Services than these are not asked of iptables, ours or kube-proxy's.
    #[arg(long, default_value_t = 1_000)]
    iptables_at_most: usize,
}

/// A way with where it leads, and what was measured there.
struct Subject {
    name: String,
    way: usize,
    target: SocketAddr,
    /// Has a bar.
    held: bool,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    /// Processor time of each round's connection, in microseconds, in the rounds' order.
    connection: Vec<f64>,
    /// Median of each round's time to establish, in microseconds.
    latency: Samples,
    request: Samples,
    request_rate: Samples,
    /// Processor milliseconds for a GiB.
    gigabyte: Samples,
    /// GiB a second.
    throughput: Samples,
}

/// The Services that are asked.
struct Targets {
    few: SocketAddr,
    one: SocketAddr,
    many: SocketAddr,
    sticky: SocketAddr,
}

pub fn run(options: &Options, peers: &Peers, report: &mut Report) -> Result<()> {
    for services in &options.services {
        size(*services, options, peers.kube_proxy.as_deref(), report)?;
    }
    let together = Places::choose(options.one_processor)?.are_together();
    let places =
        if together { "Client and server share a processor" } else { "Client and server have a processor each" };
    report.note(format!(
        "{places}. Processor time is that of both and of everything on a packet's way, per connection: a byte there and back, \
         then a reset. A quotient is the mean of the rounds' quotients, with its 95 % interval. Bars hold the upper end.",
    ));
    Ok(())
}

fn size(services: usize, options: &Options, kube_proxy: Option<&Path>, report: &mut Report) -> Result<()> {
    eprintln!("{services} Services");
    let (source, places) = (Source::start()?, Places::choose(options.one_processor)?);
    let targets = populate(&source, services)?;
    let (mut ways, mut subjects) = plain(&source, &options.rules, places)?;
    for mode in &options.modes {
        if mode.is_iptables() && services > options.iptables_at_most {
            continue;
        }
        let name = mode.label();
        let mut way = Way::new(name, &source.threads, places)?;
        way.proxy = Some(source.ours(&way.node, *mode, &format!("ours-{name}"))?);
        way.relays = *mode == Mode::Userspace;
        let all =
            [("", targets.few), (", 1 endpoint", targets.one), (", 100", targets.many), (", affinity", targets.sticky)];
        add(&mut ways, &mut subjects, way, &all, mode.is_nftables())?;
        if let Some(program) = kube_proxy.filter(|_| mode.has_original()) {
            let mut way = Way::new(format!("kube-proxy {name}"), &source.threads, places)?;
            source.serve_in(&way.node)?;
            way.proxy = Some(source.original(program, &way.node, *mode, &format!("original-{name}"))?);
            add(&mut ways, &mut subjects, way, &[("", targets.few), (", affinity", targets.sticky)], false)?;
        }
    }
    for round in 0..=options.rounds {
        let mut figures: Vec<Figures> = subjects.iter().map(|_| Figures::default()).collect();
        for turn in 0..TURNS {
            for at in 0..subjects.len() {
                let at = (at + turn + round) % subjects.len();
                let subject = &subjects[at];
                let long = turn == 0 && round <= options.long_rounds;
                subject.measure(&ways[subject.way], options.connections / TURNS, long, &mut figures[at])?;
            }
        }
        // The first round warms up.
        if round > 0 {
            subjects.iter_mut().zip(figures).for_each(|(subject, figures)| subject.figures.take(figures));
        }
        eprint!("\rround {round} of {}", options.rounds);
    }
    eprintln!();
    drop(ways);
    source.end();
    tell(services, &subjects, report);
    Ok(())
}

/// The ways without a proxy.
fn plain(source: &Source, rules: &[PathBuf], places: Places) -> Result<(Vec<Way>, Vec<Subject>)> {
    let (mut ways, mut subjects) = (Vec::new(), Vec::new());
    let pod: IpAddr = endpoints(1..=1)[0].parse()?;
    let pod = SocketAddr::new(pod, SERVER_PORT);
    let direct = Way::new(DIRECT, &source.threads, places)?;
    add(&mut ways, &mut subjects, direct, &[("", pod)], false)?;
    let address = SocketAddr::from(([10, 111, 255, 1], 80));
    for file in rules {
        let way = Way::new(file.display().to_string(), &source.threads, places)?;
        ran(&way.node, &["nft", "-f", &way.name])?;
        add(&mut ways, &mut subjects, way, &[("", address)], false)?;
    }
    let rule = Way::new(ONE_RULE, &source.threads, places)?;
    ran(&rule.node, &["nft", "add table ip hand"])?;
    ran(&rule.node, &["nft", "add chain ip hand prerouting { type nat hook prerouting priority dstnat; }"])?;
    let translate = format!("ip daddr {} tcp dport 80 dnat to {pod}", address.ip());
    ran(&rule.node, &["nft", &format!("add rule ip hand prerouting {translate}")])?;
    add(&mut ways, &mut subjects, rule, &[("", address)], false)?;
    Ok((ways, subjects))
}

fn add(
    ways: &mut Vec<Way>,
    subjects: &mut Vec<Subject>,
    mut way: Way,
    targets: &[(&str, SocketAddr)],
    held: bool,
) -> Result<()> {
    for (suffix, target) in targets {
        way.wait(*target, PROGRAMMED)?;
        let name = format!("{}{suffix}", way.name);
        subjects.push(Subject { name, way: ways.len(), target: *target, held, figures: Figures::default() });
    }
    ways.push(way);
    Ok(())
}

/// The Services that are asked come last, so that where they are there are the others. None shares an endpoint: two
/// connections from one port to one endpoint, by different Services, cost the kernel the search for another port.
fn populate(source: &Source, services: usize) -> Result<Targets> {
    let name = |number: usize| format!("s{number}");
    let filling = |number: usize| [endpoint(number, 0, 0), endpoint(number, 1, 0)];
    source.threads.block_on(async {
        let client = &source.client;
        create_all(client, (0..services).map(|number| (SERVICES, service(&name(number), None)))).await?;
        create_all(client, (0..services).map(|number| (SLICES, slice(&name(number), &filling(number))))).await?;
        let target = async |name: &str, endpoints: Vec<String>, sticky: bool| {
            let mut object = service(name, None);
            if sticky {
                object["spec"]["sessionAffinity"] = json!("ClientIP");
            }
            let created = create(client, SERVICES, &object).await?;
            create(client, SLICES, &slice(name, &endpoints)).await?;
            let address = created["spec"]["clusterIP"].as_str().context("a Service without an address")?;
            Ok::<_, anyhow::Error>(SocketAddr::new(address.parse()?, 80))
        };
        Ok(Targets {
            few: target("few", endpoints(1..=10), false).await?,
            one: target("one", endpoints(11..=11), false).await?,
            many: target("many", endpoints(12..=111), false).await?,
            sticky: target("sticky", endpoints(112..=121), true).await?,
        })
    })
}

impl Subject {
    fn measure(&self, way: &Way, connections: usize, long: bool, figures: &mut Figures) -> Result<()> {
        let (target, between) = (self.target, way.between());
        way.as_client(|| {
            let micros = |time: Duration| milliseconds(time) * 1_000.0;
            let (cost, latencies) = load::connections(target, connections, between)?;
            figures.connection.push(micros(cost.cpu) / connections as f64);
            latencies.into_iter().for_each(|latency| figures.latency.push(micros(latency)));
            if long {
                let cost = load::requests(target, REQUESTS, between)?;
                figures.request.push(micros(cost.cpu) / REQUESTS as f64);
                figures.request_rate.push(REQUESTS as f64 / cost.wall.as_secs_f64());
                let cost = load::bytes(target, BYTES, between)?;
                let gigabytes = BYTES as f64 / f64::from(1 << 30);
                figures.gigabyte.push(milliseconds(cost.cpu) / gigabytes);
                figures.throughput.push(gigabytes / cost.wall.as_secs_f64());
            }
            Ok(())
        })
    }

    /// This one's processor time per connection through another's, round by round.
    fn through(&self, other: &Subject) -> Samples {
        let mut quotients = Samples::default();
        let pairs = self.figures.connection.iter().zip(&other.figures.connection);
        pairs.for_each(|(ours, theirs)| quotients.push(ours / theirs));
        quotients
    }
}

impl Figures {
    /// One round's figures become one of each here.
    fn take(&mut self, round: Figures) {
        self.connection.push(round.connection.iter().sum::<f64>() / round.connection.len() as f64);
        for (all, one) in [
            (&mut self.latency, round.latency),
            (&mut self.request, round.request),
            (&mut self.request_rate, round.request_rate),
            (&mut self.gigabyte, round.gigabyte),
            (&mut self.throughput, round.throughput),
        ] {
            one.median().into_iter().for_each(|value| all.push(value));
        }
    }
}

fn tell(services: usize, subjects: &[Subject], report: &mut Report) {
    let [direct, one_rule] = [DIRECT, ONE_RULE].map(|name| subjects.iter().find(|subject| subject.name == name));
    for subject in subjects {
        let row = |what: &str, unit, value: Option<f64>| {
            Row::new(format!("{services}: {}: {what}", subject.name), unit, value)
        };
        let connection: Samples = subject.figures.connection.iter().copied().collect();
        report.row(row("CPU per connection", "µs", connection.median()).spread(connection.least(), connection.most()));
        for (what, other) in [("one rule's", one_rule), ("the direct one's", direct)] {
            let Some(other) = other.filter(|other| other.name != subject.name) else { continue };
            let Some(figures::Interval { low, mean, high }) = subject.through(other).interval() else { continue };
            let row = row(&format!("… through {what}, mean"), "", Some(mean)).spread(Some(low), Some(high));
            report.row(row);
            if subject.held && what == "one rule's" {
                let row = Row::new(format!("{services}: {}: … its upper end", subject.name), "", Some(high));
                report.row(row.at_most(1.1));
            }
        }
        let figures = &subject.figures;
        report.row(row("time to connect, median", "µs", figures.latency.median()));
        report.row(row("CPU per request", "µs", figures.request.median()));
        report.row(row("requests a second", "", figures.request_rate.median()));
        report.row(row("CPU per GiB", "ms", figures.gigabyte.median()));
        report.row(row("GiB a second", "", figures.throughput.median()));
    }
}
