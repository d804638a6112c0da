//! The SQLite file behind an embedded store: one row per version, appended in the order of revisions, under one digest.
//!
//! Only the committer thread uses it. Not responsible for deciding anything, for serving reads, or for making, locking
//! and checking the file (`file`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, params};

use super::digest::Digest;
use super::file;
use super::state::{Row, State, Version};
use crate::{Cause, Damage, Key, Obstacle, OpenError, Revision};

/// The layout below; a file of a higher number isn't touched.
const FORMAT: i64 = 2;
/// Had no digest.
const FORMAT_WITHOUT_DIGEST: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS versions (
        revision INTEGER NOT NULL,
        key      TEXT NOT NULL,
        created  INTEGER NOT NULL,
        expires  INTEGER,
        value    BLOB,
        PRIMARY KEY (revision, key)
    ) WITHOUT ROWID;
";

/// An open, locked database.
pub struct Disk {
    connection: Connection,
    path: PathBuf,
    rows: Digest,
    compacted: Revision,
    /// A change whose commit failed so that it may have happened.
    unsettled: Option<(Digest, Revision)>,
    /// The log may have frames of a change that failed behind its end.
    leftovers: bool,
    /// Held as long as the database is open; the kernel releases it when the process dies.
    _lock: File,
}

impl Disk {
    /// Opens or creates the file and reads everything back. A damaged one is refused as it is.
    pub fn open(path: &Path) -> Result<(Disk, State), OpenError> {
        let lock = file::lock(path)?;
        if !path.exists() {
            file::create(path, initialize)?;
        }
        file::check(path)?;
        let failed = |step| {
            let path = path.to_owned();
            move |source: rusqlite::Error| refused(step, path, source)
        };
        let connection = Connection::open(path).map_err(failed("opening"))?;
        // Until it is known to be whole, closing must not write the log's contents into it.
        let keep_log = |keep| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop);
        keep_log(true).map_err(failed("opening"))?;
        durable(&connection).map_err(failed("choosing durable commits"))?;
        let format = meta(&connection, "format").map_err(failed("reading the format"))?.unwrap_or(0);
        if !(FORMAT_WITHOUT_DIGEST..=FORMAT).contains(&format) {
            return Err(OpenError::Format { path: path.to_owned(), found: format, expected: FORMAT });
        }
        let damaged = |damage| OpenError::Damaged { path: path.to_owned(), damage };
        let structure: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed("checking the structure"))?;
        if structure != "ok" {
            return Err(damaged(Damage::Structure(structure)));
        }
        let (state, rows) = restore(&connection).map_err(failed("reading the state"))?;
        let compacted = state.compacted();
        if format == FORMAT_WITHOUT_DIGEST {
            upgrade(&connection, rows.sealed(compacted)).map_err(failed("adding the checksum"))?;
        }
        if meta(&connection, "digest").map_err(failed("reading the checksum"))? != Some(rows.sealed(compacted)) {
            return Err(damaged(Damage::Contents));
        }
        keep_log(false).map_err(failed("opening"))?;
        let path = path.to_owned();
        let disk = Disk { connection, path, rows, compacted, unsettled: None, leftovers: false, _lock: lock };
        Ok((disk, state))
    }

    /// Makes a group of transactions durable: returns after SQLite has synced its log.
    pub fn commit(&mut self, batches: &[(Revision, Vec<Row>)]) -> Result<(), CommitError> {
        let mut sum = self.rows;
        batches.iter().flat_map(|(_, rows)| rows).for_each(|row| sum.add(row));
        self.write(sum, self.compacted, |transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO versions (revision, key, created, expires, value) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for (key, version) in batches.iter().flat_map(|(_, rows)| rows) {
                let value = version.value.as_deref();
                statement.execute(params![version.modified.0, &**key, version.created.0, version.expires, value])?;
            }
            Ok(())
        })
    }

    /// Removes superseded rows and records the compaction, which keeps revisions from going back.
    pub fn compact(&mut self, at: Revision, rows: &[Row]) -> Result<(), CommitError> {
        let mut sum = self.rows;
        rows.iter().for_each(|row| sum.remove(row));
        self.write(sum, at, |transaction| {
            let mut statement = transaction.prepare_cached("DELETE FROM versions WHERE revision = ?1 AND key = ?2")?;
            for (key, version) in rows {
                statement.execute(params![version.modified.0, &**key])?;
            }
            set_meta(transaction, "compacted", at.0)
        })
    }

    fn write(
        &mut self,
        sum: Digest,
        compacted: Revision,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), CommitError> {
        self.begin_anew().map_err(|source| CommitError::NotWritten(self.failure(source)))?;
        let prepared = self.connection.transaction().and_then(|transaction| {
            change(&transaction)?;
            set_meta(&transaction, "digest", sum.sealed(compacted))?;
            Ok(transaction)
        });
        match prepared.map(Transaction::commit) {
            Ok(Ok(())) => {
                (self.rows, self.compacted) = (sum, compacted);
                Ok(())
            }
            Err(source) => {
                self.leftovers = true;
                Err(CommitError::NotWritten(self.failure(source)))
            }
            // Mostly rolled back, but a log that was written and not synced may count: ask.
            Ok(Err(source)) => {
                (self.unsettled, self.leftovers) = (Some((sum, compacted)), true);
                let failure = self.failure(source);
                match self.settle() {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(CommitError::NotWritten(failure)),
                    Err(_) => Err(CommitError::Unsettled(failure)),
                }
            }
        }
    }

    /// After a failure, begins the log anew: the remains of several failures in it would look like damage to whoever
    /// opens it after a crash. It also makes room.
    fn begin_anew(&mut self) -> rusqlite::Result<()> {
        if self.leftovers {
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            self.leftovers = false;
        }
        Ok(())
    }

    /// How the change ended whose end wasn't known: true when it is there now. What SQLite rolled back, its next commit
    /// overwrites in the log, so that it can't come back later.
    pub fn settle(&mut self) -> Result<bool, Failure> {
        let Some((sum, compacted)) = self.unsettled else { return Ok(true) };
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").map_err(|source| self.failure(source))?;
        }
        let found = meta(&self.connection, "digest").map_err(|source| self.failure(source))?;
        self.unsettled = None;
        let there = found == Some(sum.sealed(compacted));
        if there {
            (self.rows, self.compacted) = (sum, compacted);
        }
        Ok(there)
    }

    fn failure(&self, source: rusqlite::Error) -> Failure {
        let obstacle = match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Obstacle::Full,
            Some(ErrorCode::ReadOnly) => Obstacle::ReadOnly,
            _ => file::obstacle(&self.path),
        };
        Failure { obstacle, source: Arc::new(source) }
    }
}

/// Why the disk didn't take a change.
#[derive(Clone, Debug)]
pub struct Failure {
    pub obstacle: Obstacle,
    pub source: Cause,
}

/// How a change failed.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing of it is in the database.
    NotWritten(Failure),
    /// `Disk::settle` is to be asked until it knows.
    Unsettled(Failure),
}

/// What SQLite says of a file that isn't one of its own, or is no longer, has a name of its own.
fn refused(step: &'static str, path: PathBuf, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { path, damage: Damage::Sqlite(source) }
        }
        // A table or a column that isn't there.
        Some(ErrorCode::Unknown) => OpenError::Damaged { path, damage: Damage::Sqlite(source) },
        // A value of another type than was written.
        None => OpenError::Damaged { path, damage: Damage::Sqlite(source) },
        Some(_) => OpenError::Database { step, path, source },
    }
}

fn initialize(connection: &Connection) -> rusqlite::Result<()> {
    durable(connection)?;
    connection.execute_batch(SCHEMA)?;
    set_meta(connection, "format", FORMAT)?;
    set_meta(connection, "digest", Digest::default().sealed(Revision(0)))
}

fn durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")
}

fn upgrade(connection: &Connection, digest: i64) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    set_meta(&transaction, "digest", digest)?;
    set_meta(&transaction, "format", FORMAT)?;
    transaction.commit()
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}

fn restore(connection: &Connection) -> rusqlite::Result<(State, Digest)> {
    let compacted = Revision(meta(connection, "compacted")?.unwrap_or(0));
    let (mut state, mut digest) = (State::new(compacted), Digest::default());
    let mut statement =
        connection.prepare("SELECT revision, key, created, expires, value FROM versions ORDER BY revision, key")?;
    let mut found = statement.query([])?;
    let mut rows: Vec<Row> = Vec::new();
    let mut current = Revision(0);
    while let Some(row) = found.next()? {
        let revision = Revision(row.get(0)?);
        if revision != current {
            flush(&mut state, current, &mut rows);
            current = revision;
        }
        let key: String = row.get(1)?;
        let value: Option<Vec<u8>> = row.get(4)?;
        let version = Version {
            created: Revision(row.get(2)?),
            modified: revision,
            expires: row.get(3)?,
            value: value.map(Bytes::from),
        };
        let row: Row = (Key::from(key), version);
        digest.add(&row);
        rows.push(row);
    }
    flush(&mut state, current, &mut rows);
    Ok((state, digest))
}

fn flush(state: &mut State, revision: Revision, rows: &mut Vec<Row>) {
    if !rows.is_empty() {
        state.restore(revision, std::mem::take(rows));
    }
}
