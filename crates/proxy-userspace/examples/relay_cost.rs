//! What the relay costs beside the way without it: throughput of one connection and new connections per second, from a pod
//! to another node's, in turns. All of it runs in this process, so its CPU time is that of both ends and the relay.
//!
//! `cargo xtask bench relay-cost [ROUNDS]`, as root.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nft::Kernel;
use nix::sched::{CloneFlags, setns};
use proxy::battery::{self, World};
use proxy_rig::Rig;
use proxy_userspace::Userspace;
use service_model::{Change, Event, IpFamily, ServiceModel};

const BYTES: usize = 2_000_000_000;
const CONNECTIONS: u32 = 4_000;
const SINK: u16 = 7001;
const ECHO: u16 = 7002;

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(7, |text| text.parse().expect("a number of rounds"));
    let world = World::new(IpFamily::V4);
    let rig = Arc::new(Rig::new(&world));
    let node = rig.node.clone();
    let enter = move || setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().on_thread_start(enter).build().unwrap();
    let model = model(&world);
    let table = model.resolve(&world.node, IpFamily::V4);
    let settled = runtime.spawn(async move {
        let [backend, _] = Userspace::pair(Kernel::open().unwrap());
        battery::settle(&backend, &table).await;
        backend
    });
    let _backend = runtime.block_on(settled).unwrap();
    serve(&rig, SocketAddr::new(world.remote_pods[0], SINK), |mut stream| {
        let mut buffer = vec![0; 1 << 18];
        while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        stream.write_all(b"!").ok();
    });
    serve(&rig, SocketAddr::new(world.remote_pods[0], ECHO), |mut stream| {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).ok();
        }
    });
    let direct = |port| SocketAddr::new(world.remote_pods[0], port);
    let relayed = |port| SocketAddr::new(world.cluster_ip(0), port);
    let mut ratios: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        let order = if round % 2 == 0 { [false, true] } else { [true, false] };
        let mut measured = [[(0.0, 0.0); 2]; 2];
        for by_relay in order {
            let to = |port| if by_relay { relayed(port) } else { direct(port) };
            measured[usize::from(by_relay)] =
                [measure(&rig, || stream(to(SINK))), measure(&rig, || connections(to(ECHO)))];
        }
        let [without, with] = measured;
        for what in 0..2 {
            ratios[2 * what].push(without[what].0 / with[what].0);
            ratios[2 * what + 1].push(with[what].1 / without[what].1);
        }
        let gbit = |seconds: f64| BYTES as f64 * 8e-9 / seconds;
        let rate = |seconds: f64| f64::from(CONNECTIONS) / seconds;
        println!(
            "direct {:.1} Gbit/s {:.0} conn/s, relayed {:.1} Gbit/s {:.0} conn/s",
            gbit(without[0].0),
            rate(without[1].0),
            gbit(with[0].0),
            rate(with[1].0)
        );
    }
    let names = ["throughput", "CPU per byte", "connections/s", "CPU per connection"];
    for (name, ratios) in names.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{name}: {:.2} x direct (median of {rounds})", ratios[ratios.len() / 2]);
    }
    std::process::exit(0);
}

fn model(world: &World) -> ServiceModel {
    let mut model = ServiceModel::new();
    let ports = [SINK, ECHO].map(|port| serde_json::json!({"name": port.to_string(), "port": port}));
    let service = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"clusterIPs": [world.cluster_ip(0).to_string()], "ports": ports}
    });
    let slice = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [world.remote_pods[0].to_string()]}], "ports": ports
    });
    model.apply(Event::Service(Change::Upsert(serde_json::from_value(service).unwrap())));
    model.apply(Event::EndpointSlice(Change::Upsert(serde_json::from_value(slice).unwrap())));
    model
}

fn serve(rig: &Rig, at: SocketAddr, answer: fn(TcpStream)) {
    let listener = rig.outside(|| TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream);
        }
    });
}

/// Seconds by the clock, and of all CPUs.
fn measure(rig: &Rig, act: impl FnOnce() + Send) -> (f64, f64) {
    let (begun, used) = (Instant::now(), cpu());
    rig.outside(act);
    (begun.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64())
}

/// Of all threads, also of those that have ended: proc(5), fields 14 and 15, in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn stream(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).unwrap();
    let chunk = vec![7; 1 << 18];
    let mut left = BYTES;
    while left > 0 {
        let now = left.min(chunk.len());
        stream.write_all(&chunk[..now]).unwrap();
        left -= now;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn connections(to: SocketAddr) {
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(b"?").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
}
