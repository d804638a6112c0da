//! What programming the kernel costs: everything from nothing, and one endpoint's change, in a namespace of its own.
//! Run it with `cargo run --release -p proxy-nftables --example sync_cost [SERVICES ENDPOINTS]…`. Prints, asserts nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use nft::Kernel;
use proxy::Backend;
use proxy::battery::{advance, settle};
use proxy_nftables::Nftables;
use service_model::{Change, EndpointSlice, Event, IpFamily, NodeView, Service, ServiceModel};

const CHANGES: usize = 200;

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
    let endpoints: Vec<_> = (0..endpoints)
        .map(|endpoint| serde_json::json!({"addresses": [address(endpoint)], "nodeName": "there"}))
        .collect();
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "ns", "name": format!("s{number}-1"), "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "endpoints": endpoints
    }))
    .unwrap()
}

async fn measure(services: usize, endpoints: usize) {
    let namespace = netns::NetNs::new().unwrap();
    let [backend, _] = Nftables::pair(namespace.run(Kernel::open).unwrap().unwrap());
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Relist((0..services).map(service).collect())));
    model.apply(Event::EndpointSlice(Change::Relist((0..services).map(|n| slice(n, endpoints, 0)).collect())));
    let node = NodeView::named("here");
    let start = Instant::now();
    let mut table = model.resolve(&node, IpFamily::V4);
    let resolved = start.elapsed();
    let mut observed = settle(&backend, &table).await;
    let synced = start.elapsed();
    let mut replaced: Vec<Duration> = Vec::new();
    let mut resized: Vec<Duration> = Vec::new();
    for change in 0..CHANGES {
        let (times, changed) = if change % 2 == 0 {
            (&mut replaced, slice(change / 2, endpoints, 1))
        } else {
            (&mut resized, slice(services / 2 + change / 2, endpoints - 1, 0))
        };
        let start = Instant::now();
        model.apply(Event::EndpointSlice(Change::Upsert(changed)));
        model.update(&mut table, &node);
        observed = advance(&backend, &table, observed).await;
        times.push(start.elapsed());
    }
    let start = Instant::now();
    drop(observed);
    settle(&backend, &table).await;
    let adopted = start.elapsed();
    backend.cleanup().await.unwrap();
    println!(
        "{services} x {endpoints}: resolve {resolved:?}, full sync {synced:?}, one endpoint replaced {}, one removed {}, \
         adopted after a restart {adopted:?}",
        shown(&mut replaced),
        shown(&mut resized)
    );
}

fn shown(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    format!("p50 {:?} p99 {:?}", at(50), at(99))
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|number| number.parse().unwrap()).collect();
    let sizes: Vec<(usize, usize)> = match numbers.as_slice() {
        [] => vec![(1_000, 10), (10_000, 10)],
        given => given.chunks(2).map(|pair| (pair[0], pair[1])).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (services, endpoints) in sizes {
        runtime.block_on(measure(services, endpoints));
    }
}
