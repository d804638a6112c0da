//! Our proxy and the real kube-proxy as processes against one API server, in the same mode, each in a network namespace
//! without rules: the first sync of many Services, then single changes. In turn, round by round.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use apiserver::pki::{self, Pki, ServerNames};
use apiserver::{ApiServer, AsyncReadWrite, Config, NodeDialer};
use kube::Client;
use netns::NetNs;
use serde_json::json;
use store::embedded::{Embedded, Options as StoreOptions};
use testkit::Temporary;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::figures::{Samples, milliseconds};
use crate::lab::{self, event_loop};
use crate::objects::{SERVICES, SLICES, create, create_all, endpoint, replace, service, slice};
use crate::process::{Process, portolan};
use crate::report::{Report, Row};
use crate::sightings::Sightings;
use crate::{Peers, memory, peers, proxy_log};

/// A first sync, or one change, takes no longer.
const LIMIT: Duration = Duration::from_secs(600);

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
}

/// What both program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Nftables,
    /// By the tools on nf_tables.
    Iptables,
    /// By those on the kernel's older tables.
    IptablesLegacy,
}

/// The API server both watch, in this process.
struct Source {
    threads: Runtime,
    client: Client,
    namespace: NetNs,
    socket: PathBuf,
    kubeconfig: PathBuf,
    stop: CancellationToken,
    scratch: Temporary,
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
    peak: Samples,
    resident: Samples,
    cpu: Samples,
}

/// How to run and read one proxy.
struct Contender<'a> {
    start: &'a dyn Fn() -> Result<(Process, NetNs)>,
    syncs: fn(&str) -> Vec<Duration>,
    changes: usize,
    mode: Mode,
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
    eprintln!("{services} Services with {} endpoints", options.endpoints);
    let source = Source::start()?;
    source.populate(services, options.endpoints)?;
    let (mut ours, mut peer) = (Measured::default(), Measured::default());
    for round in 0..options.rounds {
        let start = || source.start_ours(options.mode);
        let contender =
            Contender { start: &start, syncs: proxy_log::ours, changes: options.changes, mode: options.mode };
        source.round(&contender, services, options.endpoints, &mut ours)?;
        if let Some(program) = kube_proxy.filter(|_| round < options.peer_rounds) {
            let start = || {
                let namespace = &source.namespace;
                let scratch = &source.scratch;
                let proxy = peers::kube_proxy(program, namespace, &source.kubeconfig, scratch, options.mode)?;
                Ok((proxy, namespace.clone()))
            };
            let contender = Contender { start: &start, syncs: proxy_log::kube_proxy, changes: 3, mode: options.mode };
            source.round(&contender, services, options.endpoints, &mut peer)?;
            options.mode.clear(&source.namespace)?;
        }
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    source.end();
    let size = format!("{services} × {}", options.endpoints);
    let full = Row::new(format!("{size}: first sync"), "ms", ours.full.median());
    let full = full.spread(ours.full.least(), ours.full.most()).peer(peer.full.median());
    report.row(match (options.mode, services) {
        (Mode::Nftables, 5_000) => full.times(15.0),
        (Mode::Nftables, 10_000) => full.at_most(600.0),
        (Mode::Iptables | Mode::IptablesLegacy, 1_000) => full.times(1.0),
        _ => full,
    });
    let memory = |what: &str, ours: &Samples, peer: &Samples| {
        let row = Row::new(format!("{size}: {what}"), "MiB", ours.median()).peer(peer.median());
        if services == 10_000 && options.mode == Mode::Nftables { row.at_most(64.0) } else { row }
    };
    report.row(memory("resident, at most", &ours.peak, &peer.peak));
    report.row(memory("resident, afterwards", &ours.resident, &peer.resident));
    report.row(Row::new(format!("{size}: processor time to there"), "ms", ours.cpu.median()).peer(peer.cpu.median()));
    for (what, ours, peer, bar) in [
        ("an endpoint replaced", &ours.replaced, &peer.replaced, 1.0),
        ("an endpoint added", &ours.added, &peer.added, 3.0),
        ("an endpoint removed", &ours.removed, &peer.removed, 3.0),
    ] {
        let row = Row::new(format!("{size}: {what}, median"), "ms", ours.median());
        let row = row.peer(peer.median());
        report.row(if options.mode == Mode::Nftables { row.at_most(bar) } else { row.times(3.0) });
        report.row(Row::new(format!("{size}: {what}, p99"), "ms", ours.percentile(99)));
    }
    if options.mode != Mode::IptablesLegacy {
        let outside = Row::new(format!("{size}: acknowledged write → commit, median"), "ms", ours.outside.median());
        report.row(outside.spread(ours.outside.least(), ours.outside.most()).peer(peer.outside.median()));
    }
    Ok(())
}

impl Mode {
    /// Removes all rules of a namespace, which are the peer's.
    fn clear(self, namespace: &NetNs) -> Result<()> {
        if self != Mode::IptablesLegacy {
            return lab::run(namespace, &["nft", "flush", "ruleset"]).map(drop);
        }
        for program in ["iptables-legacy-restore", "ip6tables-legacy-restore"] {
            let flush = format!("printf '*%s\\nCOMMIT\\n' mangle nat filter | {program}");
            lab::run(namespace, &["sh", "-c", &flush])?;
        }
        Ok(())
    }
}

impl Source {
    fn start() -> Result<Source> {
        let (namespace, scratch) = (lab::namespace()?, Temporary::new());
        let threads = event_loop(&namespace)?;
        let address = SocketAddr::from(([127, 0, 0, 1], 6443));
        let names = ServerNames {
            addresses: vec![address.ip()],
            names: vec!["localhost".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::in_memory(&names).context("cannot make certificates")?;
        let (socket, kubeconfig) = (scratch.path().join("api.sock"), scratch.path().join("kubeconfig"));
        pki::write(&kubeconfig, &pki.kubeconfig("bench", &format!("https://{address}")))?;
        let stop = CancellationToken::new();
        // On a thread of the loop: those are in the namespace, the caller isn't.
        let (certificates, at, until) = (pki, (socket.clone(), scratch.path().join("state.db")), stop.clone());
        let serving = threads.spawn(async move {
            let ((socket, database), pki, stop) = (at, certificates, until);
            let store = Embedded::open(&database, StoreOptions::default())?;
            let config = Config {
                service_cidrs: vec!["10.96.0.0/12".parse()?],
                node_port_range: 30_000..=32_767,
                // Nobody goes there; it mustn't be a loopback address.
                advertise: SocketAddr::from(([192, 0, 2, 1], 6443)),
                cluster_domain: "cluster.local".to_owned(),
            };
            let server = ApiServer::new(Arc::new(store), config, Arc::new(Nobody))?;
            server.bootstrap().await.map_err(|status| anyhow!(status.message.clone()))?;
            let tcp = TcpListener::bind(address).await.context("cannot serve the API")?;
            let unix = UnixListener::bind(&socket).context("cannot serve the API on its socket")?;
            let tls = apiserver::server_config(&pki)?;
            let (serving, until) = (server.clone(), stop.clone());
            tokio::spawn(async move { serving.serve_tls(tcp, tls, until).await });
            let (serving, until) = (server.clone(), stop.clone());
            tokio::spawn(async move { serving.serve_unix(unix, until).await });
            Ok::<_, anyhow::Error>(Client::new(server.service(), "default"))
        });
        let client = threads.block_on(serving).context("the API server")??;
        Ok(Source { threads, client, namespace, socket, kubeconfig, stop, scratch })
    }

    fn populate(&self, services: usize, endpoints: usize) -> Result<()> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24"}});
        let addressed = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        self.threads.block_on(async {
            create(&self.client, "/api/v1/nodes", &node).await?;
            let request =
                http::Request::patch("/api/v1/nodes/n1/status").header("content-type", "application/merge-patch+json");
            self.client.request::<serde_json::Value>(request.body(addressed.to_string().into_bytes())?).await?;
            create_all(&self.client, (0..services).map(|number| (SERVICES, service(&name(number), None)))).await?;
            create_all(&self.client, (0..services).map(|number| (SLICES, of(number, endpoints, 0, 0)))).await
        })
    }

    /// Our proxy, in a namespace of its own.
    fn start_ours(&self, mode: Mode) -> Result<(Process, NetNs)> {
        let namespace = lab::namespace()?;
        let name = if mode == Mode::Nftables { "nftables" } else { "iptables" };
        let config = json!({"apiSocket": self.socket, "nodeName": "n1", "mode": name}).to_string();
        let mut command = Command::new(portolan()?);
        command.arg("__proxy").arg(self.scratch.file("proxy.json", &config)).env("PORTOLAN_LOG", "warn,proxy=debug");
        command.env("PORTOLAN_IPTABLES", if mode == Mode::IptablesLegacy { "legacy" } else { "nft" });
        // As a node's init starts it.
        command.envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")]);
        let process = Process::start(&namespace, command, &self.scratch.path().join("proxy.log"))?;
        Ok((process, namespace))
    }

    /// Starts a proxy, waits for its first sync, then makes one change after the other.
    fn round(
        &self,
        contender: &Contender<'_>,
        services: usize,
        endpoints: usize,
        measured: &mut Measured,
    ) -> Result<()> {
        let (mut proxy, namespace) = (contender.start)()?;
        let syncs = |proxy: &Process| (contender.syncs)(&proxy.said());
        let first = proxy.until("the first sync", LIMIT, |proxy| syncs(proxy).first().copied())?;
        measured.full.push_time(first);
        measured.cpu.push(memory::cpu(proxy.pid())?);
        // A second one may follow: of what came during the first, or of kube-proxy's clean-up.
        std::thread::sleep(Duration::from_secs(2));
        measured.peak.push(memory::peak(proxy.pid())? as f64 / 1024.0);
        measured.resident.push(memory::resident(proxy.pid())? as f64 / 1024.0);
        // The older tables tell nobody of their changes.
        let sightings = (contender.mode != Mode::IptablesLegacy).then(|| Sightings::begin(&namespace)).transpose()?;
        for change in 0..contender.changes {
            let number = change * 7 % services;
            // Replaced, added, removed, and back to where it was: the next round finds what this one found.
            for (step, (count, variant)) in
                [(endpoints, 1), (endpoints + 1, 1), (endpoints, 1), (endpoints, 0)].into_iter().enumerate()
            {
                let known = syncs(&proxy).len();
                let object = of(number, endpoints, variant, count - endpoints);
                let fresh: Option<Ipv4Addr> = match step {
                    0 => Some(endpoint(number, 0, variant).parse()?),
                    1 => Some(endpoint(number, endpoints, 0).parse()?),
                    _ => None,
                };
                for (sightings, address) in sightings.iter().zip(&fresh) {
                    sightings.expect(&address.octets());
                }
                self.threads.block_on(replace(&self.client, SLICES, &object))?;
                let acknowledged = Instant::now();
                let took = proxy.until("a sync", LIMIT, |proxy| syncs(proxy).get(known).copied())?;
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
        proxy.end()
    }

    fn end(self) {
        self.stop.cancel();
        self.threads.shutdown_timeout(Duration::from_secs(5));
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

/// There are no nodes to reach.
struct Nobody;

#[async_trait::async_trait]
impl NodeDialer for Nobody {
    async fn dial(&self, node: &str) -> std::io::Result<Box<dyn AsyncReadWrite>> {
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no node {node}")))
    }
}
