//! Lists and watches on the original and on ours: the same writes in the same order, many clients of several sorts that
//! look on, and what each of them was told.
//!
//! The two systems are never asked for the same revision numbers: a revision counts as its rank among the changes of its
//! kind. Every client ends at an object that the history writes last, or is given up after a bound.

mod clients;
mod compaction;
mod history;
mod lists;
mod probes;
mod record;
mod stream;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use conformance::{Originals, Ours};
use kube::Client;
use serde_json::Value;

use record::Record;

/// How long anything may take after the last write of a history.
const BOUND: Duration = Duration::from_secs(10);

/// How much of one difference is shown.
const LINE: usize = 400;

/// Clients whose name ends so are told something else on purpose; `docs/conformance.md` says why.
const EXPLAINED: &[&str] = &["resourceVersion=abc", "resourceVersion=-1", "timeoutSeconds=-1"];

/// `conformance watch`.
#[derive(clap::Args)]
pub struct Options {
    /// The seed of the first history; the following ones take the following numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many histories.
    #[arg(long, default_value_t = 4)]
    histories: u64,
    /// Random writes of each.
    #[arg(long, default_value_t = 120)]
    steps: usize,
    /// Tell every difference, not only the first of a client.
    #[arg(long)]
    verbose: bool,
}

/// One of the two servers.
#[derive(Clone)]
pub struct Server {
    pub name: &'static str,
    /// For what isn't watched.
    pub client: Client,
    pub kubeconfig: PathBuf,
    watching: Arc<Vec<Client>>,
    next: Arc<AtomicUsize>,
}

/// A server takes a hundred requests on one connection, and a watch is one as long as it lasts.
const CONNECTIONS: usize = 8;

impl Server {
    async fn new(name: &'static str, client: impl AsyncFn() -> Result<Client>, kubeconfig: PathBuf) -> Result<Self> {
        let mut watching = Vec::new();
        for _ in 0..CONNECTIONS {
            watching.push(client().await?);
        }
        let (watching, next) = (Arc::new(watching), Arc::default());
        Ok(Server { name, client: client().await?, kubeconfig, watching, next })
    }

    /// How far it is, for whoever waits.
    fn say(&self, what: &str) {
        eprintln!("{}: {what}", self.name);
    }

    /// A client for one watch.
    pub fn watcher(&self) -> Client {
        self.watching[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS].clone()
    }
}

/// Plays every history on both.
pub async fn run(options: &Options, originals: &Originals, tally: &mut Tally) -> Result<()> {
    let ours = Ours::start().await?;
    let original = Server::new("original", async || originals.client().await, originals.kubeconfig()).await?;
    let mine = Server::new("ours", async || ours.client().await, ours.kubeconfig()).await?;
    for seed in options.seed..options.seed + options.histories {
        let (a, b) = tokio::join!(play(&original, seed, options.steps), play(&mine, seed, options.steps));
        tally.compare(seed, &a?, &b?)?;
    }
    Ok(())
}

/// Compacts both stores under their clients.
pub async fn run_compaction(originals: &Originals, tally: &mut Tally) -> Result<()> {
    let ours = Ours::start().await?;
    let original = Server::new("original", async || originals.client().await, originals.kubeconfig()).await?;
    let mine = Server::new("ours", async || ours.client().await, ours.kubeconfig()).await?;
    let etcd = Arc::new(compaction::Etcd::new()?);
    let (a, b) = tokio::join!(
        compaction::play(&original, || compaction::compact_etcd(etcd.clone())),
        compaction::play(&mine, || compaction::compact_ours(&ours)),
    );
    tally.compare(0, &a?, &b?)
}

/// One history on one server.
async fn play(server: &Server, seed: u64, steps: usize) -> Result<Record> {
    let mut stage = history::Stage::set(server, seed).await?;
    let mut record = Record::default();
    stage.act(steps / 2, &mut record).await?;
    stage.mark().await?;
    stage.act(steps / 4, &mut record).await?;
    stage.mark().await?;
    server.say("the clients are opened");
    let probes = probes::open(&stage).await?;
    stage.act(steps - steps / 2 - steps / 4, &mut record).await?;
    stage.finish(&mut record).await?;
    server.say("everything is written");
    let mut seen = probes.gather().await;
    server.say("the past is watched");
    seen.extend(probes::replays(&stage).await?.gather().await);
    server.say("lists are asked for");
    for (probe, told) in lists::ask(&stage, &mut record).await? {
        seen.push((probe, told));
    }
    record.take(seen);
    Ok(record)
}

/// What was compared.
#[derive(Default)]
pub struct Tally {
    verbose: bool,
    clients: usize,
    told: usize,
    differing: usize,
    explained: usize,
}

impl Tally {
    pub fn new(options: &Options) -> Self {
        Tally { verbose: options.verbose, ..Tally::default() }
    }

    fn compare(&mut self, seed: u64, original: &Record, ours: &Record) -> Result<()> {
        let mut out = std::io::stdout().lock();
        for name in original.names().chain(ours.names().filter(|name| !original.has(name))) {
            let (a, b) = (original.told(name), ours.told(name));
            self.clients += 1;
            self.told += a.len();
            if a == b {
                continue;
            }
            self.differing += 1;
            self.explained += usize::from(EXPLAINED.iter().any(|end| name.ends_with(end)));
            writeln!(out, "history {seed}: {name}: the original told {}, ours {}", a.len(), b.len())?;
            let places = (0..a.len().max(b.len())).filter(|at| a.get(*at) != b.get(*at));
            for at in places.take(if self.verbose { usize::MAX } else { 1 }) {
                let (a, b) = (a.get(at).unwrap_or(&Value::Null), b.get(at).unwrap_or(&Value::Null));
                writeln!(out, "  at {at}:")?;
                for line in crate::contest::difference(a, b).lines() {
                    writeln!(out, "{}", line.chars().take(LINE).collect::<String>())?;
                }
            }
        }
        Ok(())
    }

    /// Whether all clients were told the same, but for what is on purpose.
    pub fn tell(&self) -> Result<bool> {
        let mut out = std::io::stdout().lock();
        let Tally { clients, told, differing, explained, .. } = self;
        writeln!(
            out,
            "{clients} clients were told {told} things by the original; {differing} of them differ, {explained} of \
             these on purpose"
        )?;
        Ok(differing == explained)
    }
}
