//! The one thread that writes: decides transactions, makes them durable in groups, publishes, then answers.
//!
//! Not responsible for reads, which go to the published state at any time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::Options;
use super::disk::{CommitError, Disk, Failure};
use super::state::{Pending, Row, State};
use super::watchers::Watchers;
use crate::{Compare, Error, Key, Op, Outcome, Revision, Txn};

/// How many transactions share one sync at most; more only adds latency to the first of them.
const GROUP: usize = 1024;

/// How often the age of revisions is noted down, dead watchers are swept and old history is dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// When an expiry is tried again that the disk didn't take.
const AGAIN_MS: i64 = 1_000;

/// A request to the committer, with where its answer goes.
pub enum Command {
    Txn(Txn, oneshot::Sender<Result<Outcome, Error>>),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
}

/// What the committer publishes to and readers read from.
pub struct Published {
    pub state: RwLock<State>,
    /// Locked before `state` where both are needed.
    pub watchers: Mutex<Watchers>,
}

/// What is done to the published state once it is durable.
enum Change {
    Batches(Vec<(Revision, Vec<Row>)>),
    Compaction(Revision),
}

type Answer = (oneshot::Sender<Result<Outcome, Error>>, Result<Outcome, Error>);

pub struct Committer {
    published: Arc<Published>,
    disk: Option<Disk>,
    options: Options,
    /// What may or may not be on disk, because its commit failed halfway.
    unsettled: Option<Change>,
    /// What ends by itself, soonest first.
    expiring: BinaryHeap<Reverse<(i64, Key, Revision)>>,
    /// When the store was at which revision, oldest first.
    ages: VecDeque<(Instant, Revision)>,
    housekept: Instant,
    /// When outdated values may be shed by their size again, after a failure.
    shed_from: Instant,
}

impl Committer {
    pub fn new(published: Arc<Published>, disk: Option<Disk>, options: Options) -> Self {
        let expiring = read(&published.state).expiring().map(Reverse).collect();
        let (ages, housekept) = (VecDeque::new(), Instant::now());
        Committer { published, disk, options, unsettled: None, expiring, ages, housekept, shed_from: housekept }
    }

    /// Works until every sender is gone.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            match commands.recv_timeout(self.patience()) {
                Ok(first) => self.take(first, commands),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.expire();
            self.shed();
            if self.housekept.elapsed() >= HOUSEKEEPING {
                self.housekeep();
            }
        }
    }

    fn patience(&self) -> Duration {
        let next = self.expiring.peek().map(|Reverse((at, _, _))| at.saturating_sub(now()));
        let next = next.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
        next.unwrap_or(HOUSEKEEPING).min(HOUSEKEEPING)
    }

    /// Gathers whatever is waiting, as far as it is transactions, and commits it as one group.
    fn take(&mut self, first: Command, commands: &Receiver<Command>) {
        let mut next = Some(first);
        let mut group = Vec::new();
        while let Some(command) = next.take() {
            match command {
                Command::Txn(txn, answer) => group.push((txn, answer)),
                Command::Compact(at, answer) => {
                    self.commit(std::mem::take(&mut group));
                    // The caller may have given up waiting.
                    let _ = answer.send(self.compact(at));
                }
            }
            if group.len() < GROUP {
                next = commands.try_recv().ok();
            }
        }
        self.commit(group);
    }

    fn commit(&mut self, group: Vec<(Txn, oneshot::Sender<Result<Outcome, Error>>)>) {
        if group.is_empty() {
            return;
        }
        if let Err(error) = self.settle() {
            group.into_iter().for_each(|(_, sender)| drop(sender.send(Err(error.clone()))));
            return;
        }
        let (answers, batches) = {
            let state = read(&self.published.state);
            let mut pending = Pending::new(&state);
            let moment = now();
            let answers: Vec<Answer> =
                group.into_iter().map(|(txn, answer)| (answer, pending.decide(&txn, moment))).collect();
            (answers, pending.batches)
        };
        match self.persist(Change::Batches(batches)) {
            Ok(()) => answers.into_iter().for_each(|(sender, outcome)| drop(sender.send(outcome))),
            // Even a conflict may be with a transaction of this group, which now never was.
            Err(error) => answers.into_iter().for_each(|(sender, _)| drop(sender.send(Err(error.clone())))),
        }
    }

    /// Makes a change durable, then visible.
    fn persist(&mut self, change: Change) -> Result<(), Error> {
        let written = match (self.disk.as_mut(), &change) {
            (None, _) => Ok(()),
            (Some(_), Change::Batches(batches)) if batches.is_empty() => Ok(()),
            (Some(disk), Change::Batches(batches)) => disk.commit(batches),
            (Some(disk), Change::Compaction(at)) => {
                let rows = read(&self.published.state).superseded(*at);
                disk.compact(*at, &rows)
            }
        };
        match written {
            Ok(()) => {
                self.show(change);
                Ok(())
            }
            Err(CommitError::NotWritten(Failure { obstacle, source })) => {
                tracing::error!(%source, %obstacle, "the store can't write");
                Err(Error::NotWritten { obstacle, source })
            }
            Err(CommitError::Unsettled(Failure { obstacle, source })) => {
                tracing::error!(%source, %obstacle, "a commit ended without a known result");
                self.unsettled = Some(change);
                Err(Error::Unsettled { obstacle, source })
            }
        }
    }

    /// Finds out how the last commit ended, if that is still open: nothing can be decided before.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(disk) = self.disk.as_mut().filter(|_| self.unsettled.is_some()) else { return Ok(()) };
        let there = disk.settle().map_err(|Failure { obstacle, source }| Error::NotWritten { obstacle, source })?;
        match self.unsettled.take() {
            Some(change) if there => self.show(change),
            _ => {}
        }
        Ok(())
    }

    fn show(&mut self, change: Change) {
        match change {
            Change::Batches(batches) => self.publish(batches),
            Change::Compaction(at) => {
                self.published.state.write().unwrap_or_else(PoisonError::into_inner).compact(at);
            }
        }
    }

    fn publish(&mut self, batches: Vec<(Revision, Vec<Row>)>) {
        for (_, rows) in &batches {
            let ending = rows.iter().filter_map(|(key, v)| Some(Reverse((v.expires?, key.clone(), v.modified))));
            self.expiring.extend(ending);
        }
        // A watcher opened between the two would miss or repeat a batch: hence the outer lock.
        let mut watchers = self.published.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let batches: Vec<_> = {
            let mut state = self.published.state.write().unwrap_or_else(PoisonError::into_inner);
            batches.into_iter().map(|(revision, rows)| state.apply(revision, rows)).collect()
        };
        batches.iter().for_each(|batch| watchers.deliver(batch));
    }

    /// Deletes what has ended, unless it was written again since.
    fn expire(&mut self) {
        let moment = now();
        while let Some(Reverse((at, _, _))) = self.expiring.peek()
            && *at <= moment
        {
            let Some(Reverse((_, key, revision))) = self.expiring.pop() else { return };
            let txn = Txn { compares: vec![Compare::Modified(key.clone(), revision)], ops: vec![Op::Delete { key }] };
            let key = txn.compares[0].key().clone();
            let (sender, mut answer) = oneshot::channel();
            self.commit(vec![(txn, sender)]);
            if !matches!(answer.try_recv(), Ok(Ok(_))) {
                self.expiring.push(Reverse((moment + AGAIN_MS, key, revision)));
            }
        }
    }

    fn housekeep(&mut self) {
        self.housekept = Instant::now();
        self.published.watchers.lock().unwrap_or_else(PoisonError::into_inner).sweep();
        let (current, compacted) = {
            let state = read(&self.published.state);
            (state.revision(), state.compacted())
        };
        self.ages.push_back((self.housekept, current));
        let mut old = None;
        while let Some((noted, revision)) = self.ages.front()
            && noted.elapsed() >= self.options.keep
        {
            old = Some(*revision);
            self.ages.pop_front();
        }
        let enough = Revision(current.0 - self.options.keep_revisions);
        if let Some(at) = old.map(|at| at.min(enough)).filter(|at| *at > compacted)
            && let Err(error) = self.compact(at)
        {
            tracing::warn!(%error, "compacting failed; it is tried again later");
        }
    }

    /// Compacts early when outdated values take too much memory. Half of what they may take goes, so that this is rare.
    fn shed(&mut self) {
        let at = {
            let state = read(&self.published.state);
            if state.outdated() <= self.options.keep_bytes || Instant::now() < self.shed_from {
                return;
            }
            state.shedding(self.options.keep_bytes / 2)
        };
        match self.compact(at) {
            Ok(()) => tracing::info!(revision = at.0, "compacted early: too many bytes were outdated"),
            Err(error) => {
                tracing::warn!(%error, "compacting failed; it is tried again later");
                self.shed_from = Instant::now() + HOUSEKEEPING;
            }
        }
    }

    fn compact(&mut self, at: Revision) -> Result<(), Error> {
        self.settle()?;
        {
            let state = read(&self.published.state);
            if at <= state.compacted() {
                return Err(Error::Compacted { requested: at, compacted: state.compacted() });
            }
            if at > state.revision() {
                return Err(Error::Future { requested: at, current: state.revision() });
            }
        }
        self.persist(Change::Compaction(at))?;
        tracing::debug!(revision = at.0, "compacted");
        Ok(())
    }
}

/// Nothing panics while holding the lock, and what it guards is changed by complete steps.
pub fn read(state: &RwLock<State>) -> std::sync::RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
