//! A small multi-version key-value store: revisions, snapshots, compare-and-swap transactions, ordered watches.
//!
//! Knows nothing of Kubernetes: keys are text, values are bytes. `embedded` is the engine for one server (state in
//! memory, durable in SQLite). Not responsible for the layout of keys, nor for what values mean.

pub mod embedded;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use embedded::{Embedded, Options};

/// A key; shared, since the state, the history and every watcher hold it.
pub type Key = Arc<str>;

/// The number of a committed transaction. An empty store is at revision 1, so 0 never names a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// Where an empty store starts.
    pub const FIRST: Revision = Revision(1);

    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// The revision that made the key exist.
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
}

/// Which keys a range reads.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only keys that start with this.
    pub prefix: String,
    /// Only keys at or after this one; the empty string means all.
    pub start: String,
    /// At most this many entries; 0 means all.
    pub limit: usize,
    /// The state at this revision; `None` is the newest, which every acknowledged write is part of.
    pub at: Option<Revision>,
}

impl Range {
    /// Everything under a prefix, as of now.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Range { prefix: prefix.into(), ..Range::default() }
    }
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub entries: Vec<Entry>,
    /// How many more keys match beyond `limit`.
    pub remaining: usize,
    /// The store's revision when it was read (`Range::at` where that was given).
    pub revision: Revision,
}

/// What must hold for a transaction to commit.
#[derive(Clone, Debug)]
pub enum Compare {
    /// The key doesn't exist.
    Absent(Key),
    /// The key exists and was last written by this revision.
    Modified(Key, Revision),
}

impl Compare {
    pub fn key(&self) -> &Key {
        match self {
            Compare::Absent(key) | Compare::Modified(key, _) => key,
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a value; with `ttl` the key is deleted that long after, unless it is written again.
    Put { key: Key, value: Bytes, ttl: Option<Duration> },
    /// Deletes the key; nothing happens when there is none.
    Delete { key: Key },
}

impl Op {
    pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), ttl: None }
    }

    pub fn delete(key: impl Into<Key>) -> Self {
        Op::Delete { key: key.into() }
    }

    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// All compares hold, or nothing happens; all ops happen at one revision. No key may be changed twice.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable. A transaction that changed nothing carries the revision it found.
    Committed(Revision),
    /// The first compare that failed, with what its key holds.
    Conflict { key: Key, current: Option<Entry> },
}

/// One change as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Key,
    /// The new value; `None` is a deletion.
    pub entry: Option<Entry>,
    /// What the key held before; `None` when it didn't exist.
    pub previous: Option<Entry>,
}

/// All the changes of one revision that a watcher asked for, in the order of the transaction's ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    #[error("the watcher fell behind and was closed")]
    Slow,
    #[error("the store was closed")]
    Closed,
}

/// An open watch: every change under its prefix after its revision, each once, in order, from when it is durable.
#[async_trait]
pub trait Watch: Send {
    /// The next batch. Cancel safe.
    async fn next(&mut self) -> Result<Arc<Batch>, WatchEnd>;

    /// The revision up to which `next` has handed out everything; `None` while something is waiting.
    fn progress(&mut self) -> Option<Revision>;
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("revision {requested} was compacted; history starts at {compacted}")]
    Compacted { requested: Revision, compacted: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future { requested: Revision, current: Revision },
    #[error("a transaction changes {0} twice")]
    ChangedTwice(Key),
    #[error("the store is closed")]
    Closed,
    /// The store is as it was before.
    #[error("nothing was written: {obstacle}")]
    NotWritten { obstacle: Obstacle, source: Cause },
    /// Neither is known yet; whoever asks later sees how it ended.
    #[error("whether it was written can't be known yet: {obstacle}")]
    Unsettled { obstacle: Obstacle, source: Cause },
}

/// What an engine says about a failure; shared, since everybody in a group of transactions is told.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What keeps an engine from writing. Reads go on, and writes do by themselves when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error("the disk is full")]
    Full,
    #[error("the file system is read-only")]
    ReadOnly,
    #[error("the disk reports errors")]
    Failing,
}

/// Why a store couldn't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by {holder}")]
    Locked { path: PathBuf, holder: String },
    #[error("locking {path}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("creating {path} for its owner only")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("{step} of {path}")]
    Database { step: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error(
        "{path} has format {found}, and this program reads up to format {expected}: a newer version wrote it; use that one"
    )]
    Format { path: PathBuf, found: i64, expected: i64 },
    #[error(
        "{path} is damaged: {damage}. Nothing was changed. Put a copy back, or move it away together with its neighbours \
         (-wal, -shm) to begin empty; `sqlite3 {path} .recover` shows what can still be read"
    )]
    Damaged { path: PathBuf, damage: Damage },
    #[error("starting the committer thread")]
    Thread(#[source] std::io::Error),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it is empty, which a store's file never is")]
    Empty,
    #[error("it doesn't begin as a database with a log does")]
    Head,
    #[error("its log is there without it")]
    Gone,
    #[error("{0}")]
    Log(#[from] embedded::LogDamage),
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    #[error("SQLite finds: {0}")]
    Structure(String),
    #[error("what it holds is not what was written (its checksum differs)")]
    Contents,
}

/// The store. Every read sees every write acknowledged before it, and none that isn't durable.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest durable revision.
    async fn revision(&self) -> Result<Revision, Error>;

    /// One key, as of now.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// Entries in the order of their keys.
    async fn range(&self, range: Range) -> Result<Snapshot, Error>;

    /// Commits or conflicts; answers after the commit is durable.
    async fn txn(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Everything under `prefix` that changes after the revision `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, Error>;

    /// Forgets states before `at`: reads and watches before it answer `Error::Compacted` from then on.
    async fn compact(&self, at: Revision) -> Result<(), Error>;
}
