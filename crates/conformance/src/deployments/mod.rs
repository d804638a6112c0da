//! Deployments through rollouts, on the original's API server with the original's controllers and on ours with ours:
//! the same objects at the end of each step, and the promised limits on the way. Not responsible for what happens in a
//! scenario (`scenarios`), for the pods (`kubelet`), or for what counts as the same (`picture`).

mod kubelet;
mod limits;
mod picture;
mod scenarios;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream, try_join};
use serde_json::json;

use crate::contest::{self, Contest};
use crate::side::{Side, Write};
use kubelet::Kubelet;
use limits::Limits;
use scenarios::Scenario;

/// What is run and compared.
#[derive(clap::Args)]
pub struct Options {
    /// How many scenarios by chance, after those that are written down.
    #[arg(long, default_value_t = 40)]
    random: usize,
    /// The first one's seed; each further one counts up.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Scenarios at once.
    #[arg(long, default_value_t = 10)]
    parallel: usize,
    /// Print what ours wrote where it wrote more.
    #[arg(long)]
    verbose: bool,
}

const ORIGINALS: &str = "deployment-controller,replicaset-controller,garbage-collector-controller";
const OURS: [&str; 3] = ["deployment", "replica-set", "garbage-collector"];
const WATCHED: [(&str, &str); 3] =
    [("pods", "/api/v1"), ("replicasets", "/apis/apps/v1"), ("deployments", "/apis/apps/v1")];
/// How long both sides must be still before they are compared.
const STILL: Duration = Duration::from_millis(1500);
/// After this long, what differs differs.
const PATIENCE: Duration = Duration::from_secs(45);

/// Kube flags and our controllers for this comparison.
pub fn setup() -> contest::Setup {
    contest::Setup {
        original_controllers: ORIGINALS,
        our_controllers: &OURS,
        flags: Vec::new(),
        max_endpoints_per_slice: 100,
    }
}

struct Running {
    scenario: Scenario,
    namespace: String,
    difference: Option<String>,
}

pub async fn run(contest: &Contest, options: &Options) -> Result<bool> {
    let mut scenarios = scenarios::written();
    scenarios.extend((0..options.random as u64).map(|number| scenarios::random(options.seed + number)));
    scenarios.retain(|scenario| options.only.as_ref().is_none_or(|part| scenario.name.contains(part.as_str())));
    let limits = [Arc::new(Limits::default()), Arc::new(Limits::default())];
    for (side, limits) in [&contest.original, &contest.ours].into_iter().zip(&limits) {
        follow(side, limits).await?;
    }
    let mut running: Vec<Running> = Vec::new();
    for (number, scenario) in scenarios.into_iter().enumerate() {
        let namespace = format!("d{number}");
        if let Some(promise) = scenario.promise {
            limits.iter().for_each(|limits| limits.promise(&namespace, promise));
        }
        running.push(Running { scenario, namespace, difference: None });
    }
    stream::iter(running.iter_mut().map(|running| perform(contest, running)))
        .buffer_unordered(options.parallel)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(report(contest, &running, &limits, options.verbose))
}

/// One scenario from beginning to end, or to the first difference.
async fn perform(contest: &Contest, running: &mut Running) -> Result<()> {
    let namespace = json!({ "metadata": { "name": running.namespace } });
    let write = Write::post("/api/v1/namespaces", namespace);
    let (original, ours) = try_join!(contest.original.send(&write), contest.ours.send(&write))?;
    ensure!(original.code == 200 && ours.code == 200, "making a namespace: {} {}", original.body, ours.body);
    for act in 0..running.scenario.acts.len() {
        let before = sets(contest, running);
        play(contest, running, act).await?;
        if running.scenario.acts[act].moment.is_some() {
            begun(contest, running, before).await?;
        }
        settle(contest, running, act).await?;
        if running.difference.is_some() {
            break;
        }
    }
    Ok(())
}

/// Watches one side, plays its kubelets, and holds the limits against everything seen.
async fn follow(side: &Side, limits: &Arc<Limits>) -> Result<()> {
    let kubelet = Kubelet::start(side.clone());
    for (resource, group) in WATCHED {
        let (kubelet, limits, watcher) = (kubelet.clone(), limits.clone(), side.clone());
        side.watch(
            resource,
            group,
            Some(Arc::new(move |resource, object| {
                if resource == "pods" {
                    kubelet.look(object);
                }
                limits.hold(&watcher, resource, object);
            })),
        )
        .await?;
    }
    Ok(())
}

/// How many ReplicaSets there are on either side.
fn sets(contest: &Contest, running: &Running) -> [usize; 2] {
    [&contest.original, &contest.ours].map(|side| side.objects("replicasets", &running.namespace).len())
}

/// Waits until both sides have made the ReplicaSet that a hurried act asks for: without it they would play different
/// scenarios.
async fn begun(contest: &Contest, running: &Running, before: [usize; 2]) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE && sets(contest, running).iter().zip(before).any(|(now, before)| *now <= before) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        contest.sound()?;
    }
    Ok(())
}

/// Makes one act's writes on both sides, each in its own terms: an object may be called differently there.
async fn play(contest: &Contest, running: &mut Running, act: usize) -> Result<()> {
    let Some(act) = running.scenario.acts.get(act) else { return Ok(()) };
    for side in [&contest.original, &contest.ours] {
        for write in (act.writes)(side, &running.namespace) {
            let answer = side.send(&write).await?;
            if answer.code != 200 {
                let what = format!("{} refuses {} {}: {}", side.name, write.method, write.path, answer.body["message"]);
                running.difference = Some(what);
            }
        }
    }
    Ok(())
}

/// Waits until both sides are still and alike; after a hurried act, only a moment.
async fn settle(contest: &Contest, running: &mut Running, number: usize) -> Result<()> {
    let Some(act) = running.scenario.acts.get(number) else { return Ok(()) };
    if let Some(moment) = act.moment {
        tokio::time::sleep(moment).await;
        return Ok(());
    }
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        contest.sound()?;
        let late = begun.elapsed() >= PATIENCE;
        if begun.elapsed() < STILL.max(act.at_least) || !contest.still_for(&running.namespace, STILL) && !late {
            continue;
        }
        let original = picture::of(&contest.original, &running.namespace);
        let ours = picture::of(&contest.ours, &running.namespace);
        if original == ours {
            return Ok(());
        }
        if late {
            let lines = contest::difference(&original, &ours);
            running.difference = Some(format!("act {number} ({}):\n{lines}", act.what));
            return Ok(());
        }
    }
}

fn report(contest: &Contest, running: &[Running], limits: &[Arc<Limits>; 2], verbose: bool) -> bool {
    let differing = running.iter().filter(|running| running.difference.is_some()).count();
    for running in running {
        if let Some(difference) = &running.difference {
            eprintln!("{} ({}) differs, {difference}", running.scenario.name, running.namespace);
        }
    }
    eprintln!("{} scenarios: {} agree, {differing} differ", running.len(), running.len() - differing);
    for (resource, _) in WATCHED {
        let (mut original, mut ours) = (0, 0);
        for running in running.iter().filter(|running| running.difference.is_none()) {
            let theirs = contest.original.writes(resource, &running.namespace);
            let own = contest.ours.writes(resource, &running.namespace);
            if verbose && own.len() > theirs.len() {
                let (name, theirs_all, own_all) = (&running.scenario.name, theirs.join("\n- "), own.join("\n+ "));
                eprintln!("{name}: {resource} {} for {}\n- {theirs_all}\n+ {own_all}", own.len(), theirs.len());
            }
            (original, ours) = (original + theirs.len(), ours + own.len());
        }
        let ratio = ours as f64 / original.max(1) as f64;
        eprintln!("writes of {resource}: {original} by the original, {ours} by ours, ratio {ratio:.3}");
    }
    let mut broken = 0;
    for (side, limits) in [&contest.original, &contest.ours].into_iter().zip(limits) {
        for breach in limits.breaches() {
            eprintln!("{}: {breach}", side.name);
            broken += usize::from(side.name == contest.ours.name);
        }
        eprintln!("{}: the limits were looked at {} times", side.name, limits.looks());
    }
    differing == 0 && broken == 0
}
