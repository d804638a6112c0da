//! Pods of the built-in image: many at once until all are ready, and one at a time until the first byte of an answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::{Value, json};

use crate::figures::{Samples, milliseconds};
use crate::lab::{System, event_loop};
use crate::objects::{PODS, create, create_all};
use crate::report::{Report, Row};
use crate::startup::first_byte;

const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_micros(500);

#[derive(clap::Args)]
pub struct Options {
    /// Pods started at once.
    #[arg(long, default_value_t = 60)]
    pods: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Pods started one after the other.
    #[arg(long, default_value_t = 30)]
    single: usize,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let (mut all, mut cpu) = (Samples::default(), Samples::default());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        let system = System::up(&[])?;
        let threads = event_loop(&system.namespace)?;
        let before = used();
        let took = threads.block_on(async { many(&system.client(), options.pods).await })?;
        all.push_time(took);
        cpu.push(used() - before);
        system.end()?;
    }
    let what = format!("{} pods created at once → all ready", options.pods);
    report.row(Row::new(what, "ms", all.median()).spread(all.least(), all.most()).at_most(5_000.0));
    report.row(Row::new("… processor time of the whole machine", "ms", cpu.median()).spread(cpu.least(), cpu.most()));

    eprintln!("one pod at a time");
    let system = System::up(&[])?;
    let (mut first, mut running) = (Samples::default(), Samples::default());
    let threads = event_loop(&system.namespace)?;
    let client = threads.block_on(async { system.client() });
    for number in 0..options.single {
        let (begun, name) = (Instant::now(), format!("single-{number}"));
        let address = threads.block_on(one(&client, &name))?;
        running.push_time(begun.elapsed());
        // From the host, through the fabric: the way a person on this machine takes.
        let at = SocketAddr::new(address, 80);
        system.namespace.run(|| {
            while first_byte(at).is_err() {
                if begun.elapsed() > LIMIT {
                    bail!("{name} doesn't answer at {at}");
                }
                std::thread::sleep(LOOK);
            }
            Ok(())
        })??;
        first.push_time(begun.elapsed());
    }
    report.row(
        Row::new("pod created → first byte answered, median", "ms", first.median())
            .spread(first.least(), first.most())
            .at_most(200.0),
    );
    report.row(Row::new("… p99", "ms", first.percentile(99)));
    report.row(Row::new("… of it until its address is known", "ms", running.median()));
    system.end()
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "server", "image": "portolan.local/testserver",
            "args": ["netexec", "--http-port=80"], "ports": [{"containerPort": 80}]
        }]}
    })
}

async fn many(client: &Client, pods: usize) -> Result<Duration> {
    let names: Vec<String> = (0..pods).map(|number| format!("many-{number}")).collect();
    let begun = Instant::now();
    let watching = until(client, |ready, _| ready.len() >= pods);
    let (created, watched) = tokio::join!(create_all(client, names.iter().map(|name| (PODS, pod(name)))), watching);
    created?;
    watched?;
    Ok(begun.elapsed())
}

/// Creates a pod and waits for its address.
async fn one(client: &Client, name: &str) -> Result<IpAddr> {
    let (created, found) = tokio::join!(create_named(client, name), async {
        let mut address = None;
        until(client, |_, object| {
            let of_pod = object["metadata"]["name"] == name;
            address = object["status"]["podIP"].as_str().filter(|_| of_pod).and_then(|ip| ip.parse().ok());
            address.is_some()
        })
        .await?;
        address.context("a pod without an address")
    });
    created?;
    found
}

async fn create_named(client: &Client, name: &str) -> Result<Value> {
    create(client, PODS, &pod(name)).await
}

/// Watches pods until those that are ready, or the latest one seen, are as wanted.
async fn until(client: &Client, mut wanted: impl FnMut(&BTreeSet<String>, &Value) -> bool) -> Result<()> {
    let request = Request::get(format!("{PODS}?watch=true")).body(Vec::new())?;
    let mut events = pin!(client.request_events::<Value>(request).await.context("cannot watch pods")?);
    let mut ready = BTreeSet::new();
    let watching = async {
        while let Some(event) = events.next().await {
            let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event.context("the watch ended")? else {
                continue;
            };
            let conditions = object["status"]["conditions"].as_array();
            if conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True") {
                ready.extend(object["metadata"]["name"].as_str().map(str::to_owned));
            }
            if wanted(&ready, &object) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(LIMIT, watching).await.context("pods that don't become ready")?
}

/// Processor time that the machine has spent on anything, in milliseconds.
fn used() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // Not idle and not waiting for a disk.
    let busy: f64 = ticks.iter().enumerate().filter(|(at, _)| ![3, 4].contains(at)).map(|(_, ticks)| ticks).sum();
    milliseconds(Duration::from_secs_f64(busy / 100.0))
}
