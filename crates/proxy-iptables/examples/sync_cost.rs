//! What programming iptables costs: everything from nothing, one endpoint's change, one more Service, a restart that finds
//! everything there; for each flavour, in a namespace of its own.
//! Run it with `cargo xtask bench iptables-steps [SERVICES ENDPOINTS]…`. Prints, asserts nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use iptables::{EachLine, Error, Family, Flavour, Iptables, Table, Tool, Transaction};
use netns::NetNs;
use proxy::Backend;
use proxy::battery::{advance, settle};
use proxy_iptables::{IptablesBackend, Options};
use service_model::{Change, EndpointSlice, Event, IpFamily, NodeView, Service, ServiceModel};

const CHANGES: usize = 20;

/// The tools in a namespace of their own.
struct Inside(NetNs, Tool);

impl Iptables for Inside {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        self.0.run(|| self.1.save(table, each)).unwrap()
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        self.0.run(|| self.1.restore(transactions)).unwrap()
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        self.0.run(|| self.1.has_chain(table, chain)).unwrap()
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        self.0.run(|| self.1.generation()).unwrap()
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.0.run(|| self.1.route_loopback()).unwrap()
    }
}

fn service(number: usize) -> Service {
    let address = format!("10.{}.{}.{}", 96 + number / 65_536, number / 256 % 256, number % 256);
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("s{number}")},
        "spec": {"clusterIPs": [address], "ports": [{"name": "p", "port": 80}]}
    }))
    .unwrap()
}

fn slice(number: usize, endpoints: usize, variant: usize) -> EndpointSlice {
    let address = |endpoint: usize| {
        let n = number * endpoints + endpoint + usize::from(endpoint == 0) * variant * 4_000_000;
        format!("{}.{}.{}.{}", 20 + n / 16_777_216, n / 65_536 % 256, n / 256 % 256, n % 256)
    };
    let endpoints: Vec<_> = (0..endpoints).map(|n| serde_json::json!({"addresses": [address(n)]})).collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("s{number}-1"), "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints
    }))
    .unwrap()
}

async fn measure(flavour: Flavour, services: usize, endpoints: usize) {
    let namespace = NetNs::new().unwrap();
    let tool = namespace.run(|| Tool::open(Family::V4, flavour)).unwrap().unwrap();
    let backend = IptablesBackend::new(IpFamily::V4, Inside(namespace, tool), Options::default());
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Relist((0..services).map(service).collect())));
    model.apply(Event::EndpointSlice(Change::Relist((0..services).map(|n| slice(n, endpoints, 0)).collect())));
    let node = NodeView::named("here");
    let start = Instant::now();
    let mut table = model.resolve(&node, IpFamily::V4);
    let observed = backend.observe().await.unwrap();
    let plan = backend.plan(&backend.desired(&table), &observed);
    let planned = start.elapsed();
    let mut observed = backend.apply(&plan, observed).await.unwrap();
    let synced = start.elapsed();
    let text = plan.to_string().len();
    drop(plan);
    let (mut changed, mut added): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let start = Instant::now();
        model.apply(Event::EndpointSlice(Change::Upsert(slice(change, endpoints, 1))));
        model.update(&mut table, &node);
        observed = advance(&backend, &table, observed).await;
        changed.push(start.elapsed());
        let start = Instant::now();
        model.apply(Event::Service(Change::Upsert(service(services + change))));
        model.apply(Event::EndpointSlice(Change::Upsert(slice(services + change, endpoints, 0))));
        model.update(&mut table, &node);
        observed = advance(&backend, &table, observed).await;
        added.push(start.elapsed());
    }
    let start = Instant::now();
    drop(observed);
    settle(&backend, &table).await;
    let adopted = start.elapsed();
    let start = Instant::now();
    backend.cleanup().await.unwrap();
    println!(
        "{flavour:?}, {services} x {endpoints}: plan {planned:?} ({} KiB), full sync {synced:?}; one endpoint replaced {:?}, \
         a Service more {:?} (medians of {CHANGES}); adopted after a restart {adopted:?}, removed {:?}",
        text / 1024,
        median(&mut changed),
        median(&mut added),
        start.elapsed()
    );
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|word| word.parse().expect("a number")).collect();
    let sizes = if numbers.is_empty() { vec![100, 10, 1_000, 10] } else { numbers };
    for size in sizes.chunks_exact(2) {
        for flavour in [Flavour::Nft, Flavour::Legacy] {
            measure(flavour, size[0], size[1]).await;
        }
    }
}
