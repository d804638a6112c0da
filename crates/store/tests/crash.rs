//! kill -9 of a process in the middle of writes loses no acknowledged write and takes no revision back.
//!
//! The test is its own victim: run with a database path, this program writes to it and prints each acknowledgement.

#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::{Embedded, Op, Options, Outcome, Range, Revision, Store, Txn};

const ROUNDS: usize = 8;
const WRITERS: usize = 8;

fn main() {
    let argument = std::env::args().nth(1);
    match argument.as_deref().and_then(|a| a.strip_prefix("--victim=")) {
        Some(path) => victim(Path::new(path)),
        // Listing tools ask for names; there is one.
        None if argument.as_deref() == Some("--list") => (),
        None => judge(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn victim(path: &Path) {
    let store = Arc::new(Embedded::open(path, Options::default()).expect("opening"));
    runtime().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.spawn(async move {
                for n in 0.. {
                    let (key, value) = (format!("/w{writer}/{}", n % 50), format!("{writer}-{n}"));
                    let txn = Txn { compares: vec![], ops: vec![Op::put(key.clone(), value.clone())] };
                    let Outcome::Committed(revision) = store.txn(txn).await.expect("a commit") else { panic!() };
                    let line = format!("{revision} {key} {value}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("stdout");
                }
            });
        }
        tasks.join_next().await;
    });
}

fn judge() {
    let directory = std::env::temp_dir().join(format!("store-crash-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("state.db");
    let mut newest = Revision(0);
    for round in 0..ROUNDS {
        let acknowledged = murder(&path, 200 + 137 * round);
        let store = Embedded::open(&path, Options::default()).expect("reopening");
        runtime().block_on(async {
            for (revision, key, value) in &acknowledged {
                let at = Range { prefix: key.clone(), at: Some(*revision), ..Range::default() };
                let found = store.range(at).await.expect("an old revision is readable");
                let entry = found.entries.iter().find(|e| &*e.key == key).expect("an acknowledged key exists");
                assert_eq!(entry.value, value.as_bytes(), "{key} at {revision}");
            }
            let revision = store.revision().await.expect("a revision");
            let last = acknowledged.iter().map(|(revision, ..)| *revision).max().expect("acknowledgements");
            assert!(revision >= last && revision > newest, "revision {revision} went back below {last} or {newest}");
            newest = revision;
        });
    }
    std::fs::remove_dir_all(&directory).expect("tidying up");
    println!("{ROUNDS} kills, no acknowledged write lost, now at revision {newest}");
}

/// Lets a victim write until it has acknowledged `count` times, kills it, and answers all it had acknowledged.
fn murder(path: &Path, count: usize) -> Vec<(Revision, String, String)> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .arg(format!("--victim={}", path.display()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("its output")).lines() {
        let line = line.expect("a line");
        let parts: Vec<&str> = line.split(' ').collect();
        // The kill may cut the last line short.
        if let [revision, key, value] = parts[..]
            && value.contains('-')
        {
            acknowledged.push((Revision(revision.parse().expect("a number")), key.to_owned(), value.to_owned()));
        }
        if acknowledged.len() == count {
            child.kill().expect("killing");
        }
    }
    child.wait().expect("waiting");
    // A cut line can only be the last one; its value may be a prefix of the real one.
    if acknowledged.len() > count {
        acknowledged.pop();
    }
    acknowledged
}
