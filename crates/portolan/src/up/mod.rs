//! `portolan up`: a whole system in the foreground (or detached), from an empty machine to Services that answer.
//!
//! This file is the order of things. Each thing is in a file of its own.

mod base;
mod clash;
mod control_plane;
mod detach;
mod fabric;
mod host_dns;
pub mod images;
mod logs;
mod manifests;
mod network;
mod nodes;
pub mod parts;
mod privilege;
mod progress;
mod ready;
mod relay;
mod saved;
pub mod table;
mod takeover;
mod three_way;
mod view;
mod way_out;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use ::images::registry::Puller;

pub use fabric::remove_host_link;
pub use nodes::lifeline;
pub use progress::export;
pub use view::View;

use crate::cli::Up;
use crate::commands::block_on;
use crate::failure::{Usage, told};
use crate::system::{DataDir, Lock, Record, clear};
use control_plane::{ControlPlane, Prepared};
use fabric::Fabric;
use images::Images;
use manifests::{Applied, Manifest};
use network::Plan;
use nodes::{Node, Start};
use progress::Progress;
use saved::Saved;
use view::Following;

/// How often what must be there is looked for; as often as kube-apiserver looks for `default/kubernetes`.
const KEEP: Duration = Duration::from_secs(10);

/// Within which a second signal is the first one's echo.
const ONE_WORD: Duration = Duration::from_millis(300);

/// Exit code of an `up` that did all it was asked, except for objects of kinds that aren't served.
const LEFT_OUT: u8 = 3;

/// Exit code of `up --detach` when it goes on although something isn't ready yet.
const NOT_READY: u8 = 4;

/// Runs a system until it is told to end.
pub fn start(options: &Up) -> Result<ExitCode> {
    let begun = Instant::now();
    privilege::check()?;
    let plan = Plan::new(options).map_err(Usage::of)?;
    let of_stdin = options.files.iter().any(|file| file.as_os_str() == manifests::STDIN);
    if of_stdin && options.watch {
        return Err(Usage::of(anyhow!("--watch follows files, and standard input (-f -) is none")));
    }
    if options.host_dns {
        host_dns::check(&plan)?;
    }
    let detaches = options.detach && !options.detached;
    // Read before anything is made: a mistake in a file should cost nothing. Standard input can be read once only.
    let manifests = if detaches && of_stdin { Vec::new() } else { manifests::read(&options.files)? };
    if !options.system.data_dir.exists() {
        block_on(plan.check_here())?;
    }
    let dir = DataDir::create(&options.system.data_dir)?;
    if detaches {
        return detach::start(&dir, of_stdin);
    }
    block_on(run(options, begun, plan, &manifests, &dir))
}

async fn run(options: &Up, begun: Instant, plan: Plan, manifests: &[Manifest], dir: &DataDir) -> Result<ExitCode> {
    let lock = dir.lock()?;
    let mut ends = Ends::new(options.detached)?;
    let (nodes, stop, skipped) = (BTreeMap::new(), CancellationToken::new(), Cell::new(0));
    let mut system = System { nodes, images: None, control: None, relay: None, fabric: None, stop, skipped, lock };
    let lived = tokio::select! {
        lived = system.live(options, begun, &plan, manifests, dir) => lived,
        () = ends.requested() => Ok(()),
    };
    let code = exit_code(system.skipped.get());
    let hurry = CancellationToken::new();
    let ended = tokio::select! {
        ended = system.end(dir, &hurry) => ended,
        never = ends.hurry(&hurry) => match never {},
    };
    lived.and(ended).map(|()| ExitCode::from(code))
}

fn names<'a>(starts: impl IntoIterator<Item = &'a Start>) -> Vec<String> {
    starts.into_iter().map(|start| start.name.clone()).collect()
}

fn exit_code(skipped: usize) -> u8 {
    if skipped == 0 { 0 } else { LEFT_OUT }
}

/// The signals that mean: end.
struct Ends {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// The terminal is closed. A detached system was asked to go on without one.
    hangup: tokio::signal::unix::Signal,
    detached: bool,
}

impl Ends {
    fn new(detached: bool) -> Result<Self> {
        let listening = "cannot listen for signals";
        let interrupt = signal(SignalKind::interrupt()).context(listening)?;
        let terminate = signal(SignalKind::terminate()).context(listening)?;
        let hangup = signal(SignalKind::hangup()).context(listening)?;
        Ok(Ends { interrupt, terminate, hangup, detached })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv(), if !self.detached => {}
        }
        progress::tell("ending; pods that listen have a moment (once more ends them at once)");
    }

    /// Who says it again waits for nobody. timeout(1) and some shells tell a process and then its group: that is one word.
    async fn hurry(&mut self, hurry: &CancellationToken) -> Infallible {
        tokio::time::sleep(ONE_WORD).await;
        let _ = futures::FutureExt::now_or_never(self.interrupt.recv());
        let _ = futures::FutureExt::now_or_never(self.terminate.recv());
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            hurry.cancel();
        }
    }
}

/// Everything that runs, in the order in which it has to end.
struct System {
    /// By number.
    nodes: BTreeMap<u32, Node>,
    images: Option<Images>,
    control: Option<ControlPlane>,
    relay: Option<JoinHandle<()>>,
    fabric: Option<Fabric>,
    stop: CancellationToken,
    /// How many objects of the manifests were left out.
    skipped: Cell<usize>,
    #[allow(dead_code, reason = "held until the end")]
    lock: Lock,
}

impl System {
    /// Builds everything, says when it answers, and follows it. Returns only with an error.
    async fn live(
        &mut self,
        options: &Up,
        begun: Instant,
        plan: &Plan,
        manifests: &[Manifest],
        dir: &DataDir,
    ) -> Result<()> {
        let starts = Start::all(options, plan, dir);
        let (mut record, api, prepared) = self.ground(options, plan, dir, &starts).await?;
        let fabric = self.fabric.as_ref().context("no fabric")?;
        self.relay = way_out::open(options.egress, plan, fabric, dir, &mut record, &self.stop).await?;
        let control = self.control.insert(ControlPlane::start(prepared, api, dir, plan, fabric, &self.stop).await?);
        let images = self.images.insert(Images::start(dir, &options.registries, &self.stop)?);
        let puller = images.puller().clone();
        let client = control.client().clone();
        let new: Vec<&Start> = starts.iter().filter(|start| !self.nodes.contains_key(&start.index)).collect();
        base::apply(&client, plan, &names(&starts), &names(new.iter().copied())).await?;
        for start in new {
            takeover::start(start, fabric, &mut self.nodes, &mut record).await?;
        }
        fabric.route_services(0).await?;
        dir.hand_over()?;
        let mut following = Following::start(&client);
        let (paths, prune, skipped) = (options.files.as_slice(), options.prune, &self.skipped);
        let mut saved = Saved { paths, prune, applied: manifests.to_vec(), skipped };
        let serve = async {
            nodes_ready(options, &mut following).await;
            let applied = saved.begin(&client).await?.applied;
            let shown = Shown { options, begun, plan, dir, fabric, applied: &applied, skipped, puller };
            tokio::select! {
                followed = shown.follow(&mut following) => followed,
                watched = saved.follow(&client), if options.watch => watched,
            }
        };
        let kept_nodes = takeover::keep(&mut self.nodes, &starts, fabric, &client, &mut record);
        tokio::select! {
            followed = serve => followed,
            kept = keep(&client, plan, fabric, dir) => kept,
            failed = control.failed() => Err(failed),
            failed = images.failed() => Err(failed),
            kept = kept_nodes => kept,
        }
    }

    /// Finds what a killed supervisor left, or builds the fabric anew, while the control plane is prepared.
    async fn ground(
        &mut self,
        options: &Up,
        plan: &Plan,
        dir: &DataDir,
        starts: &[Start],
    ) -> Result<(Record, TcpListener, Prepared)> {
        for made in [dir.run(), dir.sockets(), dir.logs(), dir.images()] {
            dir.make(&made)?;
        }
        // Nothing is touched when the port is taken.
        let api = control_plane::listen(options.api_port).await?;
        let left = takeover::find(dir, plan, options, starts).await?;
        (self.nodes, self.fabric) = (left.nodes, left.fabric);
        let built = async {
            if self.fabric.is_none() {
                plan.check_here().await?;
                self.fabric = Some(Fabric::build(plan).await?);
            }
            self.fabric.as_ref().context("no fabric")
        };
        let (fabric, prepared) = tokio::join!(built, control_plane::prepare(dir, plan));
        let record = Record {
            supervisor: i32::try_from(std::process::id()).context("our process id")?,
            host_link: fabric?.host_link().as_str().to_owned(),
            host_table: left.host_table,
            cgroup: dir.cgroup(),
            asked: takeover::asked(plan, options),
            nodes: self.nodes.values().map(|node| node.record.clone()).collect(),
        };
        record.save(dir)?;
        Ok((record, api, prepared?))
    }

    /// Ends what runs: nodes first, so that nothing talks to what is gone.
    async fn end(mut self, dir: &DataDir, hurry: &CancellationToken) -> Result<()> {
        let mut result = Ok(());
        let ends = self.nodes.into_values().map(|node| node.end(hurry.clone()));
        let ended = futures::future::join_all(ends).await;
        for node in ended {
            result = result.and(node);
        }
        self.stop.cancel();
        if let Some(images) = self.images.take() {
            images.end().await;
        }
        if let Some(control) = self.control.take() {
            control.end().await;
        }
        if let Some(relay) = self.relay.take() {
            result = result.and(relay.await.context("the relay panicked"));
        }
        let begun = self.fabric.is_some();
        if let Some(fabric) = self.fabric.take() {
            result = result.and(fabric.tear_down().await);
        }
        match Record::load(dir)? {
            Some(record) if begun => result.and(clear(dir, &record).await),
            // Of a supervisor that was killed: what it left waits for an `up` that gets further.
            Some(_) => result,
            None => result.and(Record::forget(dir)),
        }
    }
}

/// Puts back what every system has when somebody deletes or changes it. Returns only with an error.
async fn keep(client: &kube::Client, plan: &Plan, fabric: &Fabric, dir: &DataDir) -> Result<()> {
    let mut turns = tokio::time::interval(KEEP);
    let mut said: Option<String> = None;
    loop {
        turns.tick().await;
        // What a user did to the objects ends no system: it is said once, and tried again until they undo it.
        let now = base::keep(client, plan).await.err().map(|error| told(&error));
        if let Some(words) = now.as_ref().filter(|words| said.as_ref() != Some(words)) {
            progress::tell(words);
        }
        said = now;
        fabric.spare_the_bridge()?;
        let logs = dir.logs();
        let bounded = tokio::task::spawn_blocking(move || logs::bound(&logs)).await;
        if let Err(error) = bounded.context("bounding the logs panicked")? {
            tracing::warn!(%error, "cannot bound the logs");
        }
    }
}

/// Waits for all nodes, so that pods are spread over them and none is turned away first.
async fn nodes_ready(options: &Up, following: &mut Following) {
    let mut progress = Progress::default();
    loop {
        let missing = ready::missing_nodes(&following.view(), options.nodes as usize);
        if missing.is_empty() {
            return;
        }
        progress.show(&missing);
        following.changed().await;
    }
}

/// What a person is shown of a system.
struct Shown<'a> {
    options: &'a Up,
    begun: Instant,
    plan: &'a Plan,
    dir: &'a DataDir,
    fabric: &'a Fabric,
    applied: &'a [Applied],
    skipped: &'a Cell<usize>,
    puller: Puller,
}

impl Shown<'_> {
    /// Waits until everything answers, prints the table, then prints what changes.
    async fn follow(&self, following: &mut Following) -> Result<()> {
        let patience = Duration::from_secs(self.options.timeout);
        let mut progress = Progress::default();
        let mut routes = base::PodRoutes::default();
        let missing = loop {
            let view = following.view();
            routes.follow(&view, self.plan, self.fabric).await?;
            let mut missing = ready::missing(&view, self.options.nodes as usize, self.applied);
            missing.extend(ready::nameless(&view));
            if missing.is_empty() {
                missing = ready::refused(&view).await;
            }
            let pulls = images::under_way(&self.puller);
            // A pull that goes on is no reason to give up.
            let given_up = self.begun.elapsed() > patience && pulls.is_empty();
            if (missing.is_empty() && following.complete()) || given_up {
                break missing;
            }
            progress.show(&[pulls, missing].concat());
            // A refused connection is no event: look again soon.
            let _ = tokio::time::timeout(ready::AGAIN, following.changed()).await;
        };
        if self.options.host_dns {
            host_dns::set(self.fabric.host_link(), self.plan, self.options.nodes).await?;
        }
        let mut rows = following.view().rows();
        progress::table(&rows, &missing, self.skipped.get(), self.dir, self.begun.elapsed());
        if self.options.detached {
            let code = if missing.is_empty() { exit_code(self.skipped.get()) } else { NOT_READY };
            detach::ready(self.dir, code)?;
        }
        loop {
            following.changed().await;
            let view = following.view();
            routes.follow(&view, self.plan, self.fabric).await?;
            let now = view.rows();
            progress::changes(&table::changes(&rows, &now));
            rows = now;
        }
    }
}
