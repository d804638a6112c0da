//! Random histories of Services, Pods and Nodes, on the original's API server with the original's controllers and on ours
//! with ours: the same endpoints after every step, and no more writes. Not responsible for what a history holds
//! (`history`) or for what counts as the same (`picture`).

mod history;
mod objects;
mod picture;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream, try_join};
use serde_json::{Value, json};

use crate::contest::{self, Contest};
use crate::dice::Dice;
use crate::side::{Answer, Side, Write};

/// What is run and compared.
#[derive(clap::Args)]
pub struct Options {
    /// How many histories.
    #[arg(long, default_value_t = 300)]
    histories: usize,
    /// The first one's seed; each further one counts up.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps of each history.
    #[arg(long, default_value_t = 12)]
    steps: usize,
    /// Histories at once, which share their Nodes.
    #[arg(long, default_value_t = 60)]
    batch: usize,
    /// Print what was written in the histories that differ.
    #[arg(long)]
    verbose: bool,
}

/// Controllers of the original, and ours of the same duty.
const ORIGINALS: &str =
    "endpoints-controller,endpointslice-controller,endpointslice-mirroring-controller,garbage-collector-controller";
const OURS: [&str; 4] = ["endpoints", "endpoint-slice", "endpoint-slice-mirroring", "garbage-collector"];
/// Few, so that packing matters with few pods.
const MAX_PER_SLICE: usize = 5;
/// How long both sides must be still before they are compared: the original looks again a second after a slice changed.
const STILL: Duration = Duration::from_millis(1300);
/// After this long, what differs differs. The original's retries are up to some seconds apart.
const PATIENCE: Duration = Duration::from_secs(30);
const WATCHED: [(&str, &str); 4] = [
    ("services", "/api/v1"),
    ("pods", "/api/v1"),
    ("endpoints", "/api/v1"),
    ("endpointslices", "/apis/discovery.k8s.io/v1"),
];
const COUNTED: [&str; 2] = ["endpoints", "endpointslices"];

struct History {
    namespace: String,
    seed: u64,
    steps: Vec<history::Step>,
    difference: Option<String>,
}

impl History {
    /// Whether a Service becomes an ExternalName or loses its selector: ours then takes away what the original leaves.
    fn cleans_up(&self) -> bool {
        self.steps.iter().flatten().filter(|write| write.method == "PATCH").any(|write| {
            let spec = &write.body["spec"];
            spec["type"] == "ExternalName" || spec.get("selector").is_some_and(Value::is_null)
        })
    }
}

/// Counts over all histories.
#[derive(Default)]
struct Totals {
    agreed: usize,
    differed: usize,
    /// By resource, and whether a Service stopped wanting endpoints in the history: the original's and ours.
    writes: BTreeMap<(&'static str, bool), (usize, usize)>,
    wrote_more: Vec<String>,
}

pub async fn run(contest: &Contest, options: &Options) -> Result<bool> {
    for (resource, group) in WATCHED {
        try_join!(contest.original.watch(resource, group, None), contest.ours.watch(resource, group, None))?;
    }
    let mut totals = Totals::default();
    let mut done = 0;
    while done < options.histories {
        let count = options.batch.min(options.histories - done);
        batch(contest, options, done, count, &mut totals).await?;
        done += count;
        eprintln!("{done} histories: {} agree, {} differ", totals.agreed, totals.differed);
    }
    let (mut all_original, mut all_ours) = (0, 0);
    for ((resource, cleaned), (original, ours)) in &totals.writes {
        let which = if *cleaned { " where a Service stops wanting endpoints" } else { "" };
        tell(&format!("{resource}{which}"), *original, *ours);
        (all_original, all_ours) = (all_original + original, all_ours + ours);
    }
    tell("both", all_original, all_ours);
    eprintln!("histories in which ours wrote more: {}", totals.wrote_more.len());
    for line in &totals.wrote_more {
        eprintln!("  {line}");
    }
    Ok(totals.differed == 0)
}

fn tell(what: &str, original: usize, ours: usize) {
    let ratio = ours as f64 / original.max(1) as f64;
    eprintln!("writes of {what}: {original} by the original, {ours} by ours, ratio {ratio:.3}");
}

/// Kube flags and our controllers for this comparison.
pub fn setup() -> contest::Setup {
    contest::Setup {
        original_controllers: ORIGINALS,
        our_controllers: &OURS,
        flags: vec![format!("--max-endpoints-per-slice={MAX_PER_SLICE}")],
        max_endpoints_per_slice: MAX_PER_SLICE,
    }
}

async fn batch(contest: &Contest, options: &Options, first: usize, count: usize, totals: &mut Totals) -> Result<()> {
    let mut nodes = Nodes::new(options.seed + first as u64, first);
    let mut histories: Vec<History> = (first..first + count)
        .map(|number| {
            let seed = options.seed + number as u64;
            let namespace = format!("h{seed}");
            let steps = history::generate(&namespace, number, seed, &nodes.names, options.steps);
            History { namespace, seed, steps, difference: None }
        })
        .collect();
    let mut opening = nodes.open();
    opening.extend(
        histories
            .iter()
            .map(|history| Write::post("/api/v1/namespaces", json!({ "metadata": { "name": history.namespace } }))),
    );
    make(contest, &[opening]).await?;
    for step in 0..options.steps {
        let last = step + 1 == options.steps;
        let changes = if last { Vec::new() } else { nodes.change(step) };
        let nudged = !changes.is_empty();
        make(contest, &[changes]).await?;
        if nudged {
            // Nodes travel to the controllers by a watch of their own.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let playing = histories.iter_mut().filter(|history| history.difference.is_none());
        stream::iter(playing.map(|history| play(contest, history, step, nudged)))
            .buffer_unordered(12)
            .try_collect::<Vec<()>>()
            .await?;
        settle(contest, &mut histories, step).await?;
    }
    make(contest, &[nodes.close()]).await?;
    for history in &histories {
        totals.take(contest, history, options);
    }
    Ok(())
}

/// Sends a history's step to both sides. Where one refuses what the other takes, the history differs.
async fn play(contest: &Contest, history: &mut History, step: usize, nudged: bool) -> Result<()> {
    let mut writes = history.steps[step].clone();
    if nudged {
        writes.extend(nudges(contest, &history.namespace, step));
    }
    // Each at its own pace: how many changes meet in one look depends on how fast they come.
    let (original, ours) = try_join!(send_all(&contest.original, &writes), send_all(&contest.ours, &writes))?;
    for (write, (original, ours)) in writes.iter().zip(original.iter().zip(&ours)) {
        if original.code != ours.code {
            let said = |answer: &Answer| format!("{} {}", answer.code, answer.body["message"]);
            history.difference = Some(format!(
                "step {step}: {} {} {}\n  - {}\n  + {}",
                write.method,
                write.path,
                write.body,
                said(original),
                said(ours),
            ));
        }
    }
    Ok(())
}

async fn send_all(side: &Side, writes: &[Write]) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for write in writes {
        answers.push(side.send(write).await?);
    }
    Ok(answers)
}

/// The original looks at a Service whose pods' nodes have changed only when something else happens to it; ours does at
/// once. So that both do, each Service is given an annotation.
fn nudges(contest: &Contest, namespace: &str, step: usize) -> Vec<Write> {
    let services = contest.original.objects("services", namespace);
    let names = services.iter().filter_map(|service| service["metadata"]["name"].as_str());
    let patch = json!({ "metadata": { "annotations": { "nudge": step.to_string() } } });
    names.map(|name| Write::patch(format!("/api/v1/namespaces/{namespace}/services/{name}"), patch.clone())).collect()
}

async fn make(contest: &Contest, steps: &[Vec<Write>]) -> Result<()> {
    for write in steps.iter().flatten() {
        let (original, ours) = try_join!(contest.original.send(write), contest.ours.send(write))?;
        for (side, answer) in [(&contest.original, original), (&contest.ours, ours)] {
            ensure!(answer.code == 200, "{}: {} {}: {}", side.name, write.method, write.path, answer.body);
        }
    }
    Ok(())
}

/// Waits until both sides are still and alike in every history.
async fn settle(contest: &Contest, histories: &mut [History], step: usize) -> Result<()> {
    let begun = Instant::now();
    let mut open: Vec<&mut History> = histories.iter_mut().filter(|history| history.difference.is_none()).collect();
    while !open.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
        contest.sound()?;
        let late = begun.elapsed() >= PATIENCE;
        if begun.elapsed() < STILL {
            continue;
        }
        let mut unequal = Vec::new();
        for history in open {
            let still = contest.still_for(&history.namespace, STILL);
            let (original, ours) = pictures(contest, &history.namespace);
            if original == ours && (still || late) {
                continue;
            }
            if late {
                let lines = contest::difference(&original, &ours);
                history.difference = Some(format!("step {step}:\n{lines}"));
            } else {
                unequal.push(history);
            }
        }
        open = unequal;
    }
    Ok(())
}

fn pictures(contest: &Contest, namespace: &str) -> (Value, Value) {
    (picture::of(&contest.original, namespace), picture::of(&contest.ours, namespace))
}

impl Totals {
    fn take(&mut self, contest: &Contest, history: &History, options: &Options) {
        if let Some(difference) = &history.difference {
            self.differed += 1;
            let steps = if options.verbose { told(history) } else { String::new() };
            eprintln!("history {} differs, {difference}{steps}", history.seed);
            return;
        }
        self.agreed += 1;
        for resource in COUNTED {
            let original = contest.original.writes(resource, &history.namespace);
            let ours = contest.ours.writes(resource, &history.namespace);
            let total = self.writes.entry((resource, history.cleans_up())).or_default();
            *total = (total.0 + original.len(), total.1 + ours.len());
            if ours.len() > original.len() {
                let mut line = format!("history {}: {resource} {} for {}", history.seed, ours.len(), original.len());
                if options.verbose {
                    let _ = write!(line, "{}\n- {}\n+ {}", told(history), original.join("\n- "), ours.join("\n+ "));
                }
                self.wrote_more.push(line);
            }
        }
    }
}

/// A history's writes, a line each.
fn told(history: &History) -> String {
    let mut text = String::new();
    for (number, step) in history.steps.iter().enumerate() {
        for write in step {
            let _ = write!(text, "\n    {number}: {} {} {}", write.method, write.path, write.body);
        }
    }
    text
}

/// The Nodes of a batch: some in zones, of different sizes, that come, go and change.
struct Nodes {
    dice: Dice,
    names: Vec<String>,
    there: Vec<bool>,
}

impl Nodes {
    fn new(seed: u64, batch: usize) -> Self {
        let names: Vec<String> = (0..6).map(|number| format!("b{batch}-n{number}")).collect();
        Nodes { dice: Dice::new(seed ^ 0x00de_5000), there: vec![true; names.len()], names }
    }

    fn open(&mut self) -> Vec<Write> {
        // The last one comes later, if at all.
        if let Some(last) = self.there.last_mut() {
            *last = false;
        }
        (0..self.names.len() - 1).flat_map(|number| self.create(number)).collect()
    }

    fn create(&mut self, number: usize) -> Vec<Write> {
        let name = &self.names[number];
        let cpu = *self.dice.pick(&[2, 4, 4, 8]);
        vec![
            Write::post("/api/v1/nodes", objects::node(name, number % 3, cpu)),
            Write::patch(format!("/api/v1/nodes/{name}/status"), objects::node_ready(true)),
        ]
    }

    fn change(&mut self, step: usize) -> Vec<Write> {
        if step == 0 || self.dice.chance(50) {
            return Vec::new();
        }
        let number = self.dice.below(self.names.len());
        let name = self.names[number].clone();
        if !self.there[number] {
            self.there[number] = true;
            return self.create(number);
        }
        match self.dice.below(4) {
            0 => {
                self.there[number] = false;
                vec![Write::delete(format!("/api/v1/nodes/{name}"), Value::Null)]
            }
            1 => {
                let ready = self.dice.chance(50);
                vec![Write::patch(format!("/api/v1/nodes/{name}/status"), objects::node_ready(ready))]
            }
            _ => {
                let zone = format!("zone-{}", self.dice.below(3));
                let labels = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
                vec![Write::patch(format!("/api/v1/nodes/{name}"), labels)]
            }
        }
    }

    fn close(&mut self) -> Vec<Write> {
        let there = self.names.iter().zip(&self.there).filter(|(_, there)| **there);
        there.map(|(name, _)| Write::delete(format!("/api/v1/nodes/{name}"), Value::Null)).collect()
    }
}
