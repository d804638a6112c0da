//! The store of a single server: state in memory as versions per key, durable in one SQLite file.
//!
//! Reads never wait for the disk and never see a write that isn't durable; one thread commits in groups. Not for
//! several processes: the file is locked.

mod committer;
mod digest;
mod disk;
mod file;
mod log;
mod state;
mod watchers;

use std::path::Path;
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use crate::{Entry, Error, OpenError, Outcome, Range, Revision, Snapshot, Store, Txn, Watch};
use committer::{Command, Committer, Published, read};
use disk::Disk;
pub use log::Damage as LogDamage;
use state::State;
use watchers::Watchers;

/// How many requests may wait for the committer; further ones wait for their turn to wait.
const WAITING: usize = 4096;

/// How an embedded store keeps its history.
#[derive(Clone, Debug)]
pub struct Options {
    /// No compaction by itself of what is younger than this …
    pub keep: Duration,
    /// … or among this many newest revisions.
    pub keep_revisions: i64,
    /// Outdated values together may take so many bytes; beyond, the oldest go, however young.
    pub keep_bytes: usize,
    /// Batches a watcher may leave unread before it is closed.
    pub watch_depth: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { keep: Duration::from_secs(300), keep_revisions: 1000, keep_bytes: 256 << 20, watch_depth: 4096 }
    }
}

/// The embedded store. Dropping it ends its thread after what was asked of it is done.
pub struct Embedded {
    published: Arc<Published>,
    commands: Option<blocking::Sender<Command>>,
    waiting: Semaphore,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// A store durable in the file `path` (and its neighbours `-wal`, `-shm`, `.lock`).
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        let (disk, state) = Disk::open(path)?;
        Embedded::start(Some(disk), state, options)
    }

    /// A store that ends with the process.
    pub fn in_memory(options: Options) -> Result<Self, OpenError> {
        Embedded::start(None, State::new(Revision(0)), options)
    }

    fn start(disk: Option<Disk>, state: State, options: Options) -> Result<Self, OpenError> {
        let watchers = Mutex::new(Watchers::new(options.watch_depth, state.revision()));
        let published = Arc::new(Published { state: RwLock::new(state), watchers });
        let (commands, receiver) = blocking::channel();
        let committer = Committer::new(published.clone(), disk, options);
        let thread = std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run(&receiver))
            .map_err(OpenError::Thread)?;
        let waiting = Semaphore::new(WAITING);
        Ok(Embedded { published, commands: Some(commands), waiting, thread: Some(thread) })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command) -> Result<T, Error> {
        let _turn = self.waiting.acquire().await.map_err(|_| Error::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(Error::Closed)?;
        commands.send(command(sender)).map_err(|_| Error::Closed)?;
        receiver.await.map_err(|_| Error::Closed)?
    }
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, Error> {
        Ok(read(&self.published.state).revision())
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(read(&self.published.state).latest(key))
    }

    async fn range(&self, range: Range) -> Result<Snapshot, Error> {
        read(&self.published.state).range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.ask(|answer| Command::Txn(txn, answer)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, Error> {
        let mut watchers = self.published.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let backlog = read(&self.published.state).since(prefix, after)?;
        Ok(Box::new(watchers.open(prefix, after, backlog)))
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.ask(|answer| Command::Compact(at, answer)).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the committer thread panicked");
        }
    }
}
