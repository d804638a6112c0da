//! The SQLite file behind an embedded store: one row per version, appended in the order of revisions.
//!
//! Only the committer thread uses it. Not responsible for deciding anything, nor for serving reads.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::state::{Row, State, Version};
use crate::{Key, OpenError, Revision};

/// The layout below; a file of another number isn't touched.
const FORMAT: i64 = 1;

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
    /// Held as long as the database is open; the kernel releases it when the process dies.
    _lock: File,
}

impl Disk {
    /// Opens or creates the file and reads everything back.
    pub fn open(path: &Path) -> Result<(Disk, State), OpenError> {
        let lock = lock(path)?;
        private(path)?;
        let failed = |step| {
            let path = path.to_owned();
            move |source| OpenError::Database { step, path, source }
        };
        let connection = Connection::open(path).map_err(failed("opening"))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed("choosing the journal mode"))?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed("choosing synchronous commits"))?;
        connection.execute_batch(SCHEMA).map_err(failed("creating the tables"))?;
        let format = meta(&connection, "format").map_err(failed("reading the format"))?;
        match format {
            None => set_meta(&connection, "format", FORMAT).map_err(failed("writing the format"))?,
            Some(FORMAT) => {}
            Some(found) => return Err(OpenError::Format { path: path.to_owned(), found, expected: FORMAT }),
        }
        let state = restore(&connection).map_err(failed("reading the state"))?;
        Ok((Disk { connection, _lock: lock }, state))
    }

    /// Makes a group of transactions durable: returns after SQLite has synced its log.
    pub fn commit(&mut self, batches: &[(Revision, Vec<Row>)]) -> Result<(), CommitError> {
        let transaction = self.connection.transaction().map_err(CommitError::RolledBack)?;
        let insert = |transaction: &rusqlite::Transaction<'_>| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO versions (revision, key, created, expires, value) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for (revision, rows) in batches {
                for (key, version) in rows {
                    let value = version.value.as_deref();
                    statement.execute(params![revision.0, &**key, version.created.0, version.expires, value])?;
                }
            }
            Ok(())
        };
        insert(&transaction).map_err(CommitError::RolledBack)?;
        transaction.commit().map_err(CommitError::Unknown)
    }

    /// Removes superseded rows and records the compaction, which keeps revisions from going back.
    pub fn compact(&mut self, at: Revision, rows: &[(Revision, Key)]) -> Result<(), CommitError> {
        let transaction = self.connection.transaction().map_err(CommitError::RolledBack)?;
        let delete = |transaction: &rusqlite::Transaction<'_>| {
            let mut statement = transaction.prepare_cached("DELETE FROM versions WHERE revision = ?1 AND key = ?2")?;
            for (revision, key) in rows {
                statement.execute(params![revision.0, &**key])?;
            }
            set_meta(transaction, "compacted", at.0)
        };
        delete(&transaction).map_err(CommitError::RolledBack)?;
        transaction.commit().map_err(CommitError::Unknown)
    }
}

/// How a commit failed.
#[derive(Debug)]
pub enum CommitError {
    /// Nothing of the group is on disk.
    RolledBack(rusqlite::Error),
    /// The group may or may not be on disk: only reopening tells.
    Unknown(rusqlite::Error),
}

/// What is stored may be secret. SQLite gives the files beside the database the database's own permissions.
fn private(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Create { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| OpenError::Lock { path: lock_path.clone(), source };
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock_path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            return Err(OpenError::Locked { path: path.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    file.set_len(0).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    writeln!(file, "process {} ({program})", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare("SELECT value FROM meta WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}

fn restore(connection: &Connection) -> rusqlite::Result<State> {
    let compacted = Revision(meta(connection, "compacted")?.unwrap_or(0));
    let mut state = State::new(compacted);
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
        rows.push((Arc::from(key), version));
    }
    flush(&mut state, current, &mut rows);
    Ok(state)
}

fn flush(state: &mut State, revision: Revision, rows: &mut Vec<Row>) {
    if !rows.is_empty() {
        state.restore(revision, std::mem::take(rows));
    }
}
