//! A file that is not what was written is refused, in words that say what to do, and left as it is.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use store::{OpenError, Store};

use crate::history::{History, Promised};
use crate::image::damage;
use crate::recorder::Recorder;
use crate::{Scratch, busy, number, open, runtime, seed};

const FLIPS: usize = 200;

/// A store's files after a kill, with what it had acknowledged: the newest part is in the log.
fn killed(scratch: &Scratch, each: usize) -> (std::path::PathBuf, History) {
    let live = scratch.directory("live");
    drop(open(&live).unwrap());
    let recorder = Recorder::watch(&live);
    let copy = scratch.directory("copy");
    let store = std::sync::Arc::new(open(&live).unwrap());
    let history = runtime().block_on(busy(store.clone(), recorder, each, seed()));
    for file in ["state.db", "state.db-wal"] {
        std::fs::copy(live.join(file), copy.join(file)).unwrap();
    }
    drop(store);
    (copy, history)
}

fn refused(directory: &Path) -> String {
    let before = contents(directory);
    let error = match open(directory) {
        Err(error @ OpenError::Damaged { .. }) => error.to_string(),
        Err(other) => panic!("refused as something else: {other:?}"),
        Ok(_) => panic!("a damaged store was opened"),
    };
    assert!(error.contains("state.db is damaged") && error.contains("Put a copy back"), "{error}");
    assert!(contents(directory) == before, "it was changed: {error}");
    error
}

/// The database and the log; an empty log is none.
fn contents(directory: &Path) -> [Vec<u8>; 2] {
    ["state.db", "state.db-wal"].map(|file| std::fs::read(directory.join(file)).unwrap_or_default())
}

#[test]
fn a_file_that_cannot_be_a_store_is_refused_by_name() {
    let scratch = Scratch::new("foreign");
    let directory = scratch.directory("case");
    let path = directory.join("state.db");
    std::fs::write(&path, b"").unwrap();
    assert!(refused(&directory).contains("empty"));
    std::fs::write(&path, b"apiVersion: v1\nkind: Service\n".repeat(200)).unwrap();
    assert!(refused(&directory).contains("doesn't begin as a database"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(directory.join("state.db-wal"), b"something").unwrap();
    assert!(refused(&directory).contains("its log is there without it"));
    std::fs::remove_file(directory.join("state.db-wal")).unwrap();

    drop(open(&directory).unwrap());
    let whole = std::fs::read(&path).unwrap();
    for length in [1, 100, 4096, 8192] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused(&directory);
    }
    std::fs::write(&path, &whole).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE meta SET value = 99 WHERE name = 'format'", []).unwrap();
    drop(connection);
    let error = open(&directory).err().unwrap();
    assert!(matches!(error, OpenError::Format { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("newer version"), "{error}");
}

#[test]
fn a_row_that_was_changed_lost_or_added_is_noticed() {
    let scratch = Scratch::new("rows");
    let (directory, _) = killed(&scratch, 10);
    drop(open(&directory).unwrap());
    let whole = contents(&directory);
    for sql in [
        "UPDATE versions SET value = x'00' WHERE revision = (SELECT max(revision) FROM versions)",
        "DELETE FROM versions WHERE revision = 5",
        "INSERT INTO versions VALUES (7, '/new', 7, NULL, x'01')",
        "INSERT INTO meta VALUES ('compacted', 2)",
        "DELETE FROM meta WHERE name = 'digest'",
        "DROP TABLE versions",
    ] {
        std::fs::write(directory.join("state.db"), &whole[0]).unwrap();
        let connection = rusqlite::Connection::open(directory.join("state.db")).unwrap();
        connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().unwrap();
        assert!(refused(&directory).len() > 100);
    }
}

/// Never something else than what was written: either it is refused, or the damage hit what nobody reads.
#[test]
fn flipped_bytes_are_refused_or_do_no_harm() {
    let scratch = Scratch::new("flips");
    // Fewer than a compaction would need: what is compacted leaves free pages, and nobody reads those.
    let (copy, history) = killed(&scratch, 39);
    let newest = *history.committed.last_key_value().unwrap().0;
    let with_log = contents(&copy);
    drop(open(&copy).unwrap());
    let without = contents(&copy);
    assert!(with_log[1].len() > 1 << 20 && without[1].is_empty());
    let mut random = StdRng::seed_from_u64(seed());
    let flips = number("PORTOLAN_CRASH_POINTS", FLIPS);
    let mut refusals = [0; 2];
    for turn in 0..flips {
        let hit = turn % 2;
        let mut damaged = [&without, &with_log][hit].clone();
        let place = damage(&mut damaged[hit], &mut random);
        let directory = scratch.directory("flipped");
        let _ = std::fs::remove_file(directory.join("state.db-shm"));
        std::fs::write(directory.join("state.db"), &damaged[0]).unwrap();
        std::fs::write(directory.join("state.db-wal"), &damaged[1]).unwrap();
        match open(&directory) {
            Ok(store) => {
                // The end of a log that was torn by a crash looks the same: its last commits can't be told from it.
                let least = if hit == 1 { newest - 2 * crate::WRITERS as i64 } else { newest };
                let promised = Promised { revision: least, compacted: 0 };
                let judged = runtime().block_on(async {
                    assert!(store.revision().await.unwrap().0 <= newest);
                    history.judge(&store, promised, false).await
                });
                judged.unwrap_or_else(|reason| panic!("seed {}, file {hit} at {place:?}: {reason}", seed()));
            }
            Err(OpenError::Damaged { .. } | OpenError::Format { .. }) => refusals[hit] += 1,
            Err(other) => panic!("seed {}, file {hit} at {place:?}: {other:?}", seed()),
        }
    }
    eprintln!("{flips} damages, refused: {} in the database, {} in the log", refusals[0], refusals[1]);
    assert!(refusals.iter().all(|n| *n > flips / 10), "{refusals:?} of {flips} were noticed");
}
