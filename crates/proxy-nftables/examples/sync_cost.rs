//! What programming the kernel costs: everything from nothing, and one endpoint's change, in a namespace of its own; and
//! beside it what the `nft` program takes for the same Services in the shape kube-proxy 1.36 gives them (a chain per
//! Service port with one anonymous map), the rounds interleaved.
//! Run it with `cargo xtask bench proxy-steps [alone] [SERVICES ENDPOINTS]…`; `alone` leaves the peer out. Prints, asserts
//! nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nft::Kernel;
use proxy::Backend;
use proxy::battery::{advance, settle};
use proxy_nftables::Nftables;
use service_model::{Change, EndpointSlice, Event, IpFamily, NodeView, Service, ServiceModel};

const CHANGES: usize = 200;
/// Of each side, in turn; medians are printed.
const ROUNDS: usize = 3;

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

/// What one side took in one round.
struct Round {
    full: Duration,
    change: Duration,
}

/// A round of ours: the full sync, and the median of one endpoint's replacement.
async fn measure(services: usize, endpoints: usize) -> Round {
    let namespace = netns::NetNs::new().unwrap();
    let [backend, _] = Nftables::pair(namespace.run(Kernel::open).unwrap().unwrap());
    let mut model = ServiceModel::new();
    model.apply(Event::Service(Change::Relist((0..services).map(service).collect())));
    model.apply(Event::EndpointSlice(Change::Relist((0..services).map(|n| slice(n, endpoints, 0)).collect())));
    let node = NodeView::named("here");
    let start = Instant::now();
    let mut table = model.resolve(&node, IpFamily::V4);
    let resolved = start.elapsed();
    let observed = backend.observe().await.unwrap();
    let seen = start.elapsed();
    let plan = backend.plan(&backend.desired(&table), &observed);
    let planned = start.elapsed();
    let mut observed = backend.apply(&plan, observed).await.unwrap();
    let synced = start.elapsed();
    drop(plan);
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
        "{services} x {endpoints}: resolve {resolved:?}, plan {:?}, apply {:?}, full sync {synced:?}, one endpoint replaced {}, one removed {}, \
         adopted after a restart {adopted:?}",
        planned - seen,
        synced - planned,
        shown(&mut replaced),
        shown(&mut resized)
    );
    Round { full: synced, change: median(&mut replaced) }
}

/// A round of the peer's: the full load, and one Service's chain rewritten.
fn measure_peer(services: usize, endpoints: usize) -> Round {
    let namespace = netns::NetNs::new().unwrap();
    let chain = |number: usize, variant: usize| {
        let slice = slice(number, endpoints, variant);
        let addresses = slice.endpoints.iter().map(|e| e.address.to_string());
        let map: Vec<String> =
            addresses.enumerate().map(|(slot, address)| format!("{slot} : {address} . 8080")).collect();
        format!(
            "add rule ip peer s{number} meta l4proto tcp dnat ip to numgen random mod {} map {{ {} }}\n",
            map.len(),
            map.join(", ")
        )
    };
    let mut text = String::from(
        "add table ip peer\nadd map ip peer services { type ipv4_addr . inet_proto . inet_service : verdict; }\n",
    );
    for number in 0..services {
        writeln!(text, "add chain ip peer s{number}").unwrap();
        text.push_str(&chain(number, 0));
        let address = service(number).spec.cluster_ips[0].clone();
        writeln!(text, "add element ip peer services {{ {address} . tcp . 80 : goto s{number} }}").unwrap();
    }
    let load = |text: &str| {
        let start = Instant::now();
        namespace.run(|| nft(text)).unwrap();
        start.elapsed()
    };
    let full = load(&text);
    let mut changes: Vec<Duration> =
        (0..5).map(|number| load(&format!("flush chain ip peer s{number}\n{}", chain(number, 1)))).collect();
    Round { full, change: median(&mut changes) }
}

fn nft(text: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn shown(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    format!("p50 {:?} p99 {:?}", at(50), at(99))
}

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let alone = arguments.next_if(|first| first == "alone").is_some();
    let numbers: Vec<usize> = arguments.map(|number| number.parse().unwrap()).collect();
    let sizes: Vec<(usize, usize)> = match numbers.as_slice() {
        [] => vec![(1_000, 10), (10_000, 10)],
        given => given.chunks(2).map(|pair| (pair[0], pair[1])).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (services, endpoints) in sizes {
        let mut ours = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..ROUNDS {
            ours.push(runtime.block_on(measure(services, endpoints)));
            if alone {
                continue;
            }
            peers.push(measure_peer(services, endpoints));
        }
        if alone {
            continue;
        }
        let of =
            |rounds: &[Round], pick: fn(&Round) -> Duration| median(&mut rounds.iter().map(pick).collect::<Vec<_>>());
        let (full, peer_full) = (of(&ours, |r| r.full), of(&peers, |r| r.full));
        let (change, peer_change) = (of(&ours, |r| r.change), of(&peers, |r| r.change));
        println!(
            "{services} x {endpoints}, medians of {ROUNDS}: full sync {full:?}, nft -f {peer_full:?} ({:.1} times ours); one \
             endpoint replaced {change:?}, nft -f {peer_change:?} ({:.0} times ours)",
            peer_full.as_secs_f64() / full.as_secs_f64(),
            peer_change.as_secs_f64() / change.as_secs_f64()
        );
    }
}
