//! Concurrent clients of a server that is killed again and again see one register per key, as if each request had
//! happened at one moment between its beginning and its end (Herlihy & Wing 1990).
//!
//! The program is its own server: run with `--server=DIRECTORY` it serves the store there on a unix socket. Seeded:
//! `PORTOLAN_SEED`, `PORTOLAN_REQUESTS` (`cargo xtask crash store` sets both).

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod checker;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::{Embedded, Options, Revision, Store};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use checker::{Answer, Call, Request, check};

const REQUESTS: usize = 6_000;
const CLIENTS: usize = 6;
const KEYS: usize = 3;
/// Requests between two kills, on average.
const BETWEEN_KILLS: usize = 700;

fn main() {
    let argument = std::env::args().nth(1);
    match argument.as_deref().and_then(|a| a.strip_prefix("--server=")) {
        Some(directory) => server::run(Path::new(directory)),
        // Listing tools ask for names; there are two.
        None if argument.as_deref() == Some("--list") => (),
        None => {
            checker::it_notices_what_is_wrong();
            clients_of_a_server_that_is_killed_see_one_history();
        }
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

/// Orders what the clients do: a beginning or an end is one tick.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn tick(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

fn clients_of_a_server_that_is_killed_see_one_history() {
    let directory = std::env::temp_dir().join(format!("store-linearizable-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (seed, requests) = (number("PORTOLAN_SEED", 1) as u64, number("PORTOLAN_REQUESTS", REQUESTS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (calls, kills) = runtime.block_on(traffic(&directory, seed, requests));
    let log = runtime.block_on(log(&directory));
    let unknown = calls.iter().filter(|call| call.answer.is_none()).count();
    println!("{} requests, {kills} kills, {unknown} without an answer, {} revisions", calls.len(), log.len());
    assert!(kills > 2 && log.len() > requests / 8);
    check(&calls, &log).unwrap_or_else(|reason| panic!("seed {seed}: {reason}"));
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Everything that was ever committed, by revision: one change each.
async fn log(directory: &Path) -> Vec<(String, Option<String>)> {
    let store = Embedded::open(&directory.join("state.db"), Options::default()).unwrap();
    let newest = store.revision().await.unwrap();
    let mut watch = store.watch("", Revision::FIRST).await.unwrap();
    let mut log = Vec::new();
    for revision in Revision::FIRST.0 + 1..=newest.0 {
        let batch = watch.next().await.unwrap();
        assert_eq!((batch.revision.0, batch.events.len()), (revision, 1));
        let event = &batch.events[0];
        let value = event.entry.as_ref().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
        log.push((event.key.to_string(), value));
    }
    log
}

async fn traffic(directory: &Path, seed: u64, requests: usize) -> (Vec<Call>, usize) {
    let clock = Clock::default();
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let random = StdRng::seed_from_u64(seed * 1_000 + client as u64);
        let (clock, done, directory) = (clock.clone(), done.clone(), directory.to_owned());
        clients.spawn(async move { Client { client, random, clock, done, directory }.work(requests).await });
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    let mut server = start(directory);
    let mut next = random.random_range(1..2 * BETWEEN_KILLS);
    while done.load(Ordering::SeqCst) < requests {
        // How far the clients are has no event; the kill may come at any moment anyway.
        tokio::time::sleep(Duration::from_millis(1)).await;
        if done.load(Ordering::SeqCst) >= next {
            server.kill().unwrap();
            server.wait().unwrap();
            kills += 1;
            server = start(directory);
            next += random.random_range(1..2 * BETWEEN_KILLS);
        }
    }
    let calls = clients.join_all().await.into_iter().flatten().collect();
    server.kill().unwrap();
    server.wait().unwrap();
    (calls, kills + 1)
}

fn start(directory: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).arg(format!("--server={}", directory.display())).spawn().unwrap()
}

struct Client {
    client: usize,
    random: StdRng,
    clock: Clock,
    done: Arc<AtomicUsize>,
    directory: PathBuf,
}

impl Client {
    async fn work(mut self, requests: usize) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        let mut connection = None;
        while self.done.load(Ordering::SeqCst) < requests {
            let Some(stream) = connection.as_mut() else {
                connection = UnixStream::connect(self.directory.join("socket")).await.ok().map(BufReader::new);
                if connection.is_none() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                continue;
            };
            let request = self.request(calls.len(), calls.last());
            let begun = self.clock.tick();
            let answer = ask(stream, &request).await;
            let ended = self.clock.tick();
            if answer.is_none() {
                connection = None;
            }
            calls.push(Call { begun, ended, request, answer });
            self.done.fetch_add(1, Ordering::SeqCst);
        }
        calls
    }

    /// Reads and writes alike; what is compared with is mostly what was just seen.
    fn request(&mut self, number: usize, last: Option<&Call>) -> Request {
        let key = format!("/k{}", self.random.random_range(0..KEYS));
        let value = format!("c{}n{number}", self.client);
        let seen = last.and_then(|call| match (&call.request, &call.answer) {
            (Request::Get { key }, Some(Answer::Entry(Some((revision, _))))) => Some((key.clone(), *revision)),
            _ => None,
        });
        match (seen, self.random.random_range(0..10)) {
            (Some((key, revision)), 0..=4) => Request::Swap { key, revision, value },
            (_, 0..=3) => Request::Get { key },
            (_, 4 | 5) => Request::Put { key, value },
            (_, 6) => Request::Create { key, value },
            (_, 7) => Request::Delete { key },
            _ => Request::List,
        }
    }
}

/// `None` when the server ended before it answered.
async fn ask(stream: &mut BufReader<UnixStream>, request: &Request) -> Option<Answer> {
    let line = format!("{request}\n");
    stream.write_all(line.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await.ok()?;
    // A line that was cut short is no answer.
    Answer::parse(answer.strip_suffix('\n')?)
}
