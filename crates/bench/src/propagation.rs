//! From an acknowledged write to the kernel's rule and to the DNS answer, on each node of a system of three, with a
//! thousand Services present.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use netns::NetNs;

use crate::figures::{Samples, milliseconds};
use crate::lab::{System, event_loop};
use crate::objects::{self, SERVICES, SLICES, create, create_all, endpoint, replace, service, slice};
use crate::report::{Report, Row};
use crate::sightings::Sightings;

const NODES: usize = 3;
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions for the same name.
const ASK_AGAIN: Duration = Duration::from_micros(500);

#[derive(clap::Args)]
pub struct Options {
    /// Services that are there beforehand.
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Changes of each kind.
    #[arg(long, default_value_t = 100)]
    changes: usize,
}

/// One node as seen from here.
struct Node {
    sightings: Sightings,
    /// In the node's namespace, connected to its DNS server.
    dns: UdpSocket,
}

/// What a change is expected to lead to.
struct Expected {
    /// In what the kernel tells of a commit.
    rule: Option<Ipv4Addr>,
    /// A name, and an address it resolves to.
    name: Option<(String, Ipv4Addr)>,
}

/// Times from acknowledgement, over all nodes.
#[derive(Default)]
struct Kind {
    rule: Samples,
    name: Samples,
}

pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let system = System::up(&["--nodes", "3"])?;
    let threads = event_loop(&system.namespace)?;
    let client = threads.block_on(async { system.client() });
    let nodes: Arc<Vec<Node>> = Arc::new(
        (1..=NODES).map(|number| node(&system.node(&format!("node-{number}"))?, number)).collect::<Result<_>>()?,
    );
    eprintln!("creating {} Services", options.services);
    threads.block_on(populate(&client, options.services))?;
    let (mut created, mut moved, mut headless) = (Kind::default(), Kind::default(), Kind::default());
    for change in 0..options.changes {
        let number = options.services + change;
        // From the lower band, which no address is allocated from while others are free (KEP-3070).
        let (name, address) = (format!("new-{change}"), Ipv4Addr::new(10, 96, 0, u8::try_from(change % 230)? + 20));
        let qualified = |name: &str| format!("{name}.default.svc.cluster.local");
        // A new Service: its address in the kernel, its name in the DNS.
        let expected = Expected { rule: Some(address), name: Some((qualified(&name), address)) };
        let object = service(&name, Some(&address.to_string()));
        observe(&nodes, expected, &mut created, || threads.block_on(create(&client, SERVICES, &object)).map(drop))?;
        threads.block_on(objects::delete(&client, SERVICES, &name))?;
        // An endpoint of a Service with an address: the kernel.
        let at = endpoint(number, 0, 1).parse()?;
        let other =
            slice(&present(change % options.services.max(1)), &[endpoint(number, 0, 1), endpoint(number, 1, 1)]);
        let expected = Expected { rule: Some(at), name: None };
        observe(&nodes, expected, &mut moved, || threads.block_on(replace(&client, SLICES, &other)).map(drop))?;
        // An endpoint of a headless Service: the DNS.
        let expected = Expected { rule: None, name: Some((qualified("headless"), at)) };
        let other = slice("headless", &[endpoint(number, 0, 1)]);
        observe(&nodes, expected, &mut headless, || threads.block_on(replace(&client, SLICES, &other)).map(drop))?;
    }
    for (what, samples) in [
        ("Service created → rule", &created.rule),
        ("Service created → DNS answer", &created.name),
        ("endpoint replaced → rule", &moved.rule),
        ("headless endpoint replaced → DNS answer", &headless.name),
    ] {
        report.row(Row::new(format!("{what}, p50"), "ms", samples.median()));
        let spread = Row::new(format!("{what}, p99"), "ms", samples.percentile(99));
        report.row(spread.spread(samples.least(), samples.most()).at_most(20.0));
    }
    report.note(format!(
        "{} Services present, {} changes of each kind, one after the other, on {NODES} nodes: {} samples a figure. From \
         the acknowledgement of the write at its client; what was in force before it counts as 0.",
        options.services,
        options.changes,
        created.rule.len()
    ));
    drop(nodes);
    system.end()
}

fn node(namespace: &NetNs, number: usize) -> Result<Node> {
    let sightings = Sightings::begin(namespace)?;
    let server = SocketAddr::from(([172, 30, 0, u8::try_from(10 + number)?], 53));
    let dns = namespace.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok::<_, std::io::Error>(socket)
    })?;
    Ok(Node { sightings, dns: dns.context("cannot ask the DNS")? })
}

fn present(number: usize) -> String {
    format!("present-{number}")
}

async fn populate(client: &Client, services: usize) -> Result<()> {
    let two = |number| slice(&present(number), &[endpoint(number, 0, 0), endpoint(number, 1, 0)]);
    create_all(client, (0..services).map(|number| (SERVICES, service(&present(number), None)))).await?;
    create_all(client, (0..services).map(|number| (SLICES, two(number)))).await?;
    create(client, SERVICES, &service("headless", Some("None"))).await?;
    create(client, SLICES, &slice("headless", &[endpoint(services, 0, 0)])).await?;
    // Whatever the nodes still do about this isn't what is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Makes a change and takes the time from its acknowledgement to each of its effects on each node.
fn observe(
    nodes: &Arc<Vec<Node>>,
    expected: Expected,
    kind: &mut Kind,
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let rule = expected.rule.map(|address| address.octets());
    for node in nodes.iter() {
        rule.iter().for_each(|bytes| node.sightings.expect(bytes));
    }
    let askers: Vec<_> = (0..nodes.len())
        .filter_map(|node| {
            let ((name, address), nodes) = (expected.name.clone()?, nodes.clone());
            Some(std::thread::spawn(move || resolves(&nodes[node].dns, &name, address)))
        })
        .collect();
    change()?;
    let acknowledged = Instant::now();
    let after = |seen: Instant| milliseconds(seen.saturating_duration_since(acknowledged));
    for node in nodes.iter() {
        if let Some(bytes) = &rule {
            let seen = node.sightings.seen(bytes, LIMIT).context("a rule that never came")?;
            kind.rule.push(after(seen));
        }
    }
    for asker in askers {
        kind.name.push(after(asker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??));
    }
    Ok(())
}

/// Asks until the name has the address; returns when the answer came.
fn resolves(socket: &UdpSocket, name: &str, address: Ipv4Addr) -> Result<Instant> {
    let begun = Instant::now();
    let mut answer = [0; 1500];
    let mut id = 0_u16;
    while begun.elapsed() < LIMIT {
        id = id.wrapping_add(1);
        socket.send(&question(id, name)).context("cannot ask the DNS")?;
        let length = socket.recv(&mut answer).context("the DNS doesn't answer")?;
        let at = Instant::now();
        let answer = &answer[..length];
        if answer.starts_with(&id.to_be_bytes()) && answer.ends_with(&address.octets()) {
            return Ok(at);
        }
        std::thread::sleep(ASK_AGAIN);
    }
    bail!("{name} doesn't resolve to {address} within {LIMIT:?}")
}

/// A question for an A record (RFC 1035 §4.1).
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
