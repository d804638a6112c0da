//! Whatever a crash leaves of the store's files opens again, with everything that was acknowledged and nothing by
//! halves; what fails while it runs is told and heals by itself; what is damaged is refused.
//!
//! Seeded. `PORTOLAN_CRASH_POINTS` asks for more points than the suite has, `PORTOLAN_SEED` for others
//! (`cargo xtask crash store` sets both).

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, unsafe_code)]

mod damage;
mod full_disk;
mod history;
mod image;
mod recorder;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::{Embedded, Error, Obstacle, Op, Options, Outcome, Range, Revision, Store, Txn};

use history::{History, Promised, transaction};
use image::{Crash, Disk};
use recorder::{Fault, Happened, Recorder};

const POINTS: usize = 240;
const WRITERS: usize = 6;

/// A directory of one test, on a memory file system where there is one: what is synced is the recorder's to say.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = parent.join(format!("store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("PORTOLAN_SEED", 1) as u64
}

fn options() -> Options {
    // No compaction but the ones asked for.
    Options { keep: Duration::from_secs(3600), ..Options::default() }
}

fn open(directory: &Path) -> Result<Embedded, store::OpenError> {
    Embedded::open(&directory.join("state.db"), options())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Concurrent clients, until each has written so often; returns what they did.
async fn busy(store: Arc<Embedded>, recorder: Recorder, each: usize, seed: u64) -> History {
    let history = Arc::new(Mutex::new(History::default()));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..WRITERS {
        let (store, recorder, history) = (store.clone(), recorder.clone(), history.clone());
        let mut random = StdRng::seed_from_u64(seed + client as u64);
        clients.spawn(async move {
            for n in 0..each {
                let (txn, changes) = transaction(&store, client * 1_000_000 + n, 6_000, &mut random).await;
                match store.txn(txn).await.unwrap() {
                    Outcome::Committed(Revision(revision)) => {
                        history.lock().unwrap().committed.insert(revision, changes);
                        recorder.note(Happened::Acknowledged { revision });
                    }
                    Outcome::Conflict { .. } => {}
                }
                if n % 40 == 39 && client == 0 {
                    let at = Revision(store.revision().await.unwrap().0 - 20);
                    if store.compact(at).await.is_ok() {
                        recorder.note(Happened::Compacted { at: at.0 });
                    }
                }
            }
        });
    }
    clients.join_all().await;
    Arc::into_inner(history).unwrap().into_inner().unwrap()
}

/// Opens one image, judges it, writes on, and opens it once more.
async fn survives(directory: &Path, history: &History, promised: Promised, failures: bool) -> Result<(), String> {
    let store = open(directory).map_err(|error| format!("it doesn't open: {error}"))?;
    history.judge(&store, promised, failures).await?;
    let before = store.revision().await.unwrap();
    let txn = Txn { compares: vec![], ops: vec![Op::put("/after", "the crash")] };
    let after = store.txn(txn).await.map_err(|error| format!("it can't be written to: {error}"))?;
    if after != Outcome::Committed(before.next()) {
        return Err(format!("after revision {before} comes {after:?}"));
    }
    drop(store);
    let again = open(directory).map_err(|error| format!("it doesn't open again: {error}"))?;
    let found = again.get("/after").await.unwrap().ok_or("what was written after the crash is lost")?;
    if found.modified != before.next() {
        return Err(format!("the revision went from {} to {}", before.next(), found.modified));
    }
    Ok(())
}

/// Crashes at points spread over a recording, each in one way, and judges what is left.
async fn crash_everywhere(
    scratch: &Scratch,
    begin: Disk,
    happened: &[Happened],
    history: &History,
    points: usize,
    failures: bool,
) {
    let mut random = StdRng::seed_from_u64(seed() + 77);
    let (mut disk, mut promised) = (begin, Promised::default());
    let directory = scratch.directory("image");
    let step = (happened.len() / points).max(1);
    let mut judged = 0;
    for (index, event) in happened.iter().enumerate() {
        disk.apply(event, &mut random);
        promised.note(event);
        if index % step != step / 2 {
            continue;
        }
        let crash = Crash::ALL[judged % Crash::ALL.len()];
        disk.crash(crash, &directory, &mut random);
        if let Err(reason) = survives(&directory, history, promised, failures).await {
            panic!("seed {}, {crash:?} after operation {index} of {}: {reason}", seed(), happened.len());
        }
        judged += 1;
    }
    eprintln!("{judged} crash points of {} operations, seed {}", happened.len(), seed());
    assert!(judged >= points.min(happened.len()), "only {judged} points");
}

#[test]
fn a_crash_at_any_point_loses_nothing_acknowledged_and_leaves_no_halves() {
    let scratch = Scratch::new("points");
    let live = scratch.directory("live");
    drop(open(&live).unwrap());
    let begin = Disk::of(&live);
    let recorder = Recorder::watch(&live);
    let points = number("PORTOLAN_CRASH_POINTS", POINTS);
    runtime().block_on(async {
        let store = Arc::new(open(&live).unwrap());
        let history = busy(store.clone(), recorder.clone(), 120, seed()).await;
        drop(store);
        let happened = recorder.take();
        assert!(history.committed.len() > 200, "{}", history.committed.len());
        let checkpointed = happened.iter().any(|h| matches!(h, Happened::Write { file, .. } if file == "state.db"));
        assert!(checkpointed, "the log was never moved into the database");
        crash_everywhere(&scratch, begin, &happened, &history, points, false).await;
    });
}

#[test]
fn a_crash_while_the_file_is_made_leaves_one_that_can_be_made_again() {
    let scratch = Scratch::new("birth");
    let live = scratch.directory("live");
    let recorder = Recorder::watch(&live);
    drop(open(&live).unwrap());
    let happened: Vec<Happened> = recorder.take();
    let made = happened.iter().filter(|h| matches!(h, Happened::Write { file, .. } if file.contains(".new"))).count();
    assert!(made > 3, "{happened:?}");
    let mut random = StdRng::seed_from_u64(seed());
    let mut disk = Disk::default();
    let directory = scratch.directory("image");
    for event in happened.iter().filter(|h| format!("{h:?}").contains(".new")) {
        disk.apply(event, &mut random);
        for crash in Crash::ALL {
            disk.crash(crash, &directory, &mut random);
            let survived = runtime().block_on(survives(&directory, &History::default(), Promised::default(), false));
            survived.unwrap_or_else(|reason| panic!("{crash:?} after {event:?}: {reason}"));
        }
    }
}

/// One client and a disk that fails now and then.
async fn unlucky(store: &Embedded, recorder: &Recorder, rounds: usize, random: &mut StdRng) -> History {
    let mut history = History::default();
    let mut refused = 0;
    for round in 0..rounds {
        let fault = [Fault::Full, Fault::FailingSync, Fault::FailingWrite][round % 3];
        recorder.fault(fault, random.random_range(0..25));
        // Until the fault was met and met again, then until the disk is well again.
        let mut failures = random.random_range(1..4);
        loop {
            let number = history.tried.len();
            let (txn, changes) = transaction(store, number, 20_000, random).await;
            history.tried.push(changes.clone());
            match store.txn(txn).await {
                Ok(Outcome::Committed(Revision(revision))) => {
                    history.committed.insert(revision, changes);
                    recorder.note(Happened::Acknowledged { revision });
                    if failures == 0 {
                        break;
                    }
                }
                Ok(conflict) => panic!("one client met {conflict:?}"),
                Err(Error::NotWritten { obstacle, .. } | Error::Unsettled { obstacle, .. }) => {
                    let expected = if fault == Fault::Full { Obstacle::Full } else { Obstacle::Failing };
                    assert_eq!(obstacle, expected);
                    refused += 1;
                    reads_go_on(store, &history).await;
                    failures = usize::saturating_sub(failures, 1);
                    if failures == 0 {
                        recorder.fault(Fault::None, 0);
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(refused >= rounds, "{refused} failures in {rounds} rounds");
    history
}

async fn reads_go_on(store: &Embedded, history: &History) {
    let newest = history.committed.last_key_value().map_or(1, |(revision, _)| *revision);
    assert_eq!(store.revision().await.unwrap(), Revision(newest), "a failed write can be seen");
    let found = store.range(Range::default()).await.unwrap();
    let found: history::State = found.entries.iter().map(|e| (e.key.to_string(), e.value.to_vec())).collect();
    assert_eq!(found, history.state(newest), "a failed write can be seen");
}

#[test]
fn a_disk_that_fails_is_told_of_and_the_store_heals_when_the_disk_does() {
    let scratch = Scratch::new("faults");
    let live = scratch.directory("live");
    drop(open(&live).unwrap());
    let begin = Disk::of(&live);
    let recorder = Recorder::watch(&live);
    let points = number("PORTOLAN_CRASH_POINTS", POINTS) / 2;
    runtime().block_on(async {
        let store = open(&live).unwrap();
        let mut random = StdRng::seed_from_u64(seed());
        let history = unlucky(&store, &recorder, 60, &mut random).await;
        let newest = *history.committed.last_key_value().unwrap().0;
        drop(store);
        let happened = recorder.take();
        assert!(happened.iter().any(|h| matches!(h, Happened::FailedSync { file } if file == "state.db-wal")));
        let reopened = open(&live).unwrap();
        let promised = Promised { revision: newest, compacted: 0 };
        history.judge(&reopened, promised, false).await.unwrap();
        drop(reopened);
        crash_everywhere(&scratch, begin, &happened, &history, points, true).await;
    });
}
