//! From the start of the process to an API that is ready and to the first Service that answers, each time with a fresh
//! data directory; beside it the real kube-apiserver, whose etcd runs already. And what an idle system keeps in memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netns::NetNs;

use crate::Peers;
use crate::figures::Samples;
use crate::lab::{System, example};
use crate::memory::{self, Memory};
use crate::peers::RealApi;
use crate::report::{Report, Row};

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);
/// What `examples/myapp` answers on, on the first node.
const SERVICE: ([u8; 4], u16) = ([172, 30, 0, 11], 31_234);
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 6443);

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Rounds of the peer.
    #[arg(long, default_value_t = 3)]
    peer_rounds: usize,
    /// Seconds that an idle system is left alone before its memory is read.
    #[arg(long, default_value_t = 20)]
    idle: u64,
}

pub fn run(options: &Options, peers: &Peers, report: &mut Report) -> Result<()> {
    let (mut api, mut first, mut peer) = (Samples::default(), Samples::default(), Samples::default());
    let mut peer_memory = None;
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        let (ready, answered) = cold()?;
        api.push_time(ready);
        first.push_time(answered);
        if round < options.peer_rounds
            && let (Some(server), Some(etcd)) = (&peers.kube_apiserver, &peers.etcd)
        {
            let mut real = RealApi::start(server, etcd)?;
            let (namespace, address, began) = (real.namespace.clone(), real.address, real.began);
            peer.push_time(until_ready(&namespace, address, began, || real.check())?);
            peer_memory = Some(memory::resident(real.pid())? as f64 / 1024.0);
        }
    }
    report.row(
        Row::new("process start → API ready", "ms", api.median())
            .spread(api.least(), api.most())
            .peer(peer.median())
            .at_most(300.0),
    );
    report.row(
        Row::new("process start → first Service answered", "ms", first.median())
            .spread(first.least(), first.most())
            .at_most(1_500.0),
    );
    idle(options, peer_memory, report)?;
    match peer.is_empty() {
        true => report.note("The peer, kube-apiserver, is missing: `cargo xtask peers kube-apiserver etcd` builds it."),
        false => report.note("The peer is kube-apiserver 1.36 with its etcd already running."),
    }
    Ok(())
}

/// One start with nothing there.
fn cold() -> Result<(Duration, Duration)> {
    let mut system = System::start(&["-f", &example("examples/myapp")])?;
    let (namespace, began) = (system.namespace.clone(), system.process().began);
    let other = namespace.clone();
    let answering = std::thread::spawn(move || until_answered(&other, SERVICE.into(), began));
    let ready = until_ready(&namespace, API.into(), began, || system.process().check());
    let answered = answering.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    let times = (ready?, answered?);
    system.end()?;
    Ok(times)
}

/// Asks /readyz over TLS until it says ok.
fn until_ready(
    namespace: &NetNs,
    address: SocketAddr,
    began: Instant,
    mut check: impl FnMut() -> Result<()> + Send,
) -> Result<Duration> {
    namespace.run(|| {
        // Opening a connection is all it costs to look.
        while TcpStream::connect_timeout(&address, LIMIT).is_err() {
            check()?;
            pause(began, "the API")?;
        }
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        threads.block_on(async {
            let url = format!("https://{address}").parse().context("a URL")?;
            let mut config = kube::Config::new(url);
            config.accept_invalid_certs = true;
            let client = kube::Client::try_from(config)?;
            loop {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                let answer = client.request_text(request).await;
                if answer.as_ref().is_ok_and(|text| text.trim() == "ok") {
                    return Ok(began.elapsed());
                }
                check()?;
                pause(began, "a ready API").with_context(|| format!("/readyz answers {answer:?}"))?;
            }
        })
    })?
}

/// Asks the Service until it gives a first byte.
fn until_answered(namespace: &NetNs, address: SocketAddr, began: Instant) -> Result<Duration> {
    namespace.run(|| {
        loop {
            if first_byte(address).is_ok() {
                return Ok(began.elapsed());
            }
            pause(began, "the first Service")?;
        }
    })?
}

fn pause(began: Instant, what: &str) -> Result<()> {
    if began.elapsed() > LIMIT {
        bail!("{what}: not within {LIMIT:?}");
    }
    std::thread::sleep(LOOK);
    Ok(())
}

/// The first byte of an HTTP answer.
pub fn first_byte(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(20))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    match stream.read(&mut [0; 1])? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// What a system without pods keeps, once it has settled.
fn idle(options: &Options, peer: Option<f64>, report: &mut Report) -> Result<()> {
    eprintln!("an idle system");
    let mut system = System::up(&[])?;
    std::thread::sleep(Duration::from_secs(options.idle));
    let processes = memory::tree(system.process().pid())?;
    let mut total = Memory::default();
    let mib = |kib: u64| kib as f64 / 1024.0;
    let mut lines = vec![format!(
        "{:<28}{:>8}{:>8}{:>8}{:>8}{:>10}{:>11}{:>7}",
        "idle, one node (MiB)", "RSS", "PSS", "heap", "stacks", "program", "variables", "other"
    )];
    let line = |name: &str, m: &Memory| {
        format!(
            "{name:<28}{:>8.1}{:>8.1}{:>8.1}{:>8.1}{:>10.1}{:>11.1}{:>7.1}",
            mib(m.resident),
            mib(m.proportional),
            mib(m.heap),
            mib(m.stacks),
            mib(m.program),
            mib(m.variables),
            mib(m.other)
        )
    };
    for process in &processes {
        total += process.memory;
        lines.push(line(&process.name, &process.memory));
    }
    lines.push(line("in all", &total));
    report.row(
        Row::new("idle system, memory (PSS: shared pages once)", "MiB", Some(mib(total.proportional)))
            .peer(peer)
            .at_most(80.0),
    );
    report.row(Row::new("idle system, sum of RSS", "MiB", Some(mib(total.resident))).at_most(80.0));
    report.note(lines.join("\n"));
    system.end()
}
