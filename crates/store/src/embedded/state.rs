//! The state in memory: per key a chain of versions, and the history of batches, both since the last compaction.
//!
//! Pure values under a lock of the caller's. Not responsible for durability or for telling watchers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Batch, Compare, Entry, Error, Event, Key, Op, Outcome, Range, Revision, Snapshot, Txn};

/// One version of a key; `value` is `None` where the key was deleted.
#[derive(Clone, Debug)]
pub struct Version {
    pub created: Revision,
    pub modified: Revision,
    /// Milliseconds since the epoch at which the key ends.
    pub expires: Option<i64>,
    pub value: Option<Bytes>,
}

impl Version {
    fn entry(&self, key: &Key) -> Option<Entry> {
        let value = self.value.clone()?;
        Some(Entry { key: key.clone(), value, created: self.created, modified: self.modified })
    }
}

/// A version with its key: what the disk keeps as one row.
pub type Row = (Key, Version);

/// Everything that is durable.
pub struct State {
    keys: BTreeMap<Key, Vec<Version>>,
    history: VecDeque<Arc<Batch>>,
    /// Bytes that only history still has: what a compaction would free.
    outdated: usize,
    revision: Revision,
    compacted: Revision,
}

impl State {
    pub fn new(compacted: Revision) -> Self {
        let start = compacted.max(Revision::FIRST);
        State { keys: BTreeMap::new(), history: VecDeque::new(), outdated: 0, revision: start, compacted }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    pub fn outdated(&self) -> usize {
        self.outdated
    }

    /// The revision at which to compact so that no more than `bytes` of outdated values are left.
    pub fn shedding(&self, bytes: usize) -> Revision {
        let mut left = self.outdated;
        let freed = self.history.iter().take_while(|batch| {
            let more = left > bytes;
            left -= outdated_by(batch);
            more
        });
        freed.last().map_or(self.compacted, |batch| batch.revision)
    }

    pub fn latest(&self, key: &str) -> Option<Entry> {
        let (key, chain) = self.keys.get_key_value(key)?;
        chain.last()?.entry(key)
    }

    pub fn range(&self, range: &Range) -> Result<Snapshot, Error> {
        let at = range.at.unwrap_or(self.revision);
        if at < self.compacted {
            return Err(Error::Compacted { requested: at, compacted: self.compacted });
        }
        if at > self.revision {
            return Err(Error::Future { requested: at, current: self.revision });
        }
        let start = range.prefix.as_str().max(range.start.as_str());
        let mut found = Snapshot { revision: at, ..Snapshot::default() };
        for (key, chain) in self.keys.range::<str, _>((Bound::Included(start), Bound::Unbounded)) {
            if !key.starts_with(range.prefix.as_str()) {
                break;
            }
            // Chains are short and mostly read at their end.
            let Some(version) = chain.iter().rev().find(|v| v.modified <= at) else { continue };
            if version.value.is_none() {
                continue;
            }
            if range.limit > 0 && found.entries.len() == range.limit {
                found.remaining += 1;
            } else {
                found.entries.extend(version.entry(key));
            }
        }
        Ok(found)
    }

    /// The batches after a revision that touch a prefix.
    pub fn since(&self, prefix: &str, after: Revision) -> Result<VecDeque<Arc<Batch>>, Error> {
        if after < self.compacted {
            return Err(Error::Compacted { requested: after, compacted: self.compacted });
        }
        let from = self.history.partition_point(|batch| batch.revision <= after);
        Ok(self.history.range(from..).filter_map(|batch| narrowed(batch, prefix)).collect())
    }

    /// Makes one committed transaction visible and answers what changed.
    pub fn apply(&mut self, revision: Revision, rows: Vec<Row>) -> Arc<Batch> {
        let events = rows
            .into_iter()
            .map(|(key, version)| {
                let chain = self.keys.entry(key.clone()).or_default();
                let previous = chain.last().and_then(|v| v.entry(&key));
                let entry = version.entry(&key);
                chain.push(version);
                Event { key, entry, previous }
            })
            .collect();
        let batch = Arc::new(Batch { revision, events });
        self.outdated += outdated_by(&batch);
        self.history.push_back(batch.clone());
        self.revision = revision;
        batch
    }

    /// Puts back a row that the disk kept, in the order of revisions. Rows at or before the compaction are the state
    /// that history starts from; they aren't part of it.
    pub fn restore(&mut self, revision: Revision, rows: Vec<Row>) {
        if revision > self.compacted {
            self.apply(revision, rows);
            return;
        }
        for (key, version) in rows {
            self.keys.entry(key).or_default().push(version);
        }
    }

    /// The rows on disk that a compaction at `at` makes unreachable.
    pub fn superseded(&self, at: Revision) -> Vec<Row> {
        let mut rows = Vec::new();
        for key in self.touched(at) {
            let Some(chain) = self.keys.get(&key) else { continue };
            rows.extend(chain[..reachable(chain, at)].iter().map(|v| (key.clone(), v.clone())));
        }
        rows
    }

    /// Forgets what `superseded` named.
    pub fn compact(&mut self, at: Revision) {
        for key in self.touched(at) {
            let Some(chain) = self.keys.get_mut(&key) else { continue };
            chain.drain(..reachable(chain, at));
            if chain.is_empty() {
                self.keys.remove(&key);
            }
        }
        let gone = self.history.partition_point(|batch| batch.revision <= at);
        self.outdated -= self.history.drain(..gone).map(|batch| outdated_by(&batch)).sum::<usize>();
        self.compacted = at;
    }

    /// The live versions that end by themselves.
    pub fn expiring(&self) -> impl Iterator<Item = (i64, Key, Revision)> + '_ {
        self.keys.iter().filter_map(|(key, chain)| {
            let last = chain.last()?;
            Some((last.expires?, key.clone(), last.modified))
        })
    }

    /// Only keys that changed since the last compaction can have something to forget.
    fn touched(&self, at: Revision) -> HashSet<Key> {
        let gone = self.history.partition_point(|batch| batch.revision <= at);
        self.history.range(..gone).flat_map(|batch| batch.events.iter().map(|e| e.key.clone())).collect()
    }
}

/// The bytes of the values that a batch replaced or deleted.
fn outdated_by(batch: &Batch) -> usize {
    batch.events.iter().filter_map(|event| Some(event.previous.as_ref()?.value.len())).sum()
}

/// The index of the first version a read at or after `at` can reach. A deletion is no state worth keeping.
fn reachable(chain: &[Version], at: Revision) -> usize {
    let after = chain.partition_point(|v| v.modified <= at);
    match after.checked_sub(1) {
        Some(newest) if chain[newest].value.is_some() => newest,
        _ => after,
    }
}

/// The part of a batch under a prefix; shared when that is all of it.
pub fn narrowed(batch: &Arc<Batch>, prefix: &str) -> Option<Arc<Batch>> {
    let inside = batch.events.iter().filter(|e| e.key.starts_with(prefix)).count();
    match inside {
        0 => None,
        n if n == batch.events.len() => Some(batch.clone()),
        _ => {
            let events = batch.events.iter().filter(|e| e.key.starts_with(prefix)).cloned().collect();
            Some(Arc::new(Batch { revision: batch.revision, events }))
        }
    }
}

/// Transactions decided but not yet durable, over the durable state. Only the committer sees it.
pub struct Pending<'a> {
    state: &'a State,
    overlay: HashMap<Key, Version>,
    revision: Revision,
    /// The rows of each decided transaction, in order.
    pub batches: Vec<(Revision, Vec<Row>)>,
}

impl<'a> Pending<'a> {
    pub fn new(state: &'a State) -> Self {
        Pending { state, overlay: HashMap::new(), revision: state.revision, batches: Vec::new() }
    }

    /// Decides one transaction; `now` is milliseconds since the epoch.
    pub fn decide(&mut self, txn: &Txn, now: i64) -> Result<Outcome, Error> {
        for compare in &txn.compares {
            let current = self.current(compare.key());
            let holds = match (compare, &current) {
                (Compare::Absent(_), found) => found.is_none(),
                (Compare::Modified(_, revision), Some(found)) => found.modified == *revision,
                (Compare::Modified(..), None) => false,
            };
            if !holds {
                return Ok(Outcome::Conflict { key: compare.key().clone(), current });
            }
        }
        let mut seen = HashSet::new();
        if let Some(twice) = txn.ops.iter().find(|op| !seen.insert(op.key().clone())) {
            return Err(Error::ChangedTwice(twice.key().clone()));
        }
        let revision = self.revision.next();
        let rows: Vec<Row> = txn.ops.iter().filter_map(|op| self.row(op, revision, now)).collect();
        if rows.is_empty() {
            return Ok(Outcome::Committed(self.revision));
        }
        self.overlay.extend(rows.iter().cloned());
        self.batches.push((revision, rows));
        self.revision = revision;
        Ok(Outcome::Committed(revision))
    }

    fn current(&self, key: &Key) -> Option<Entry> {
        match self.overlay.get(key) {
            Some(version) => version.entry(key),
            None => self.state.latest(key),
        }
    }

    fn row(&self, op: &Op, revision: Revision, now: i64) -> Option<Row> {
        let current = self.current(op.key());
        let created = current.as_ref().map_or(revision, |entry| entry.created);
        match op {
            Op::Put { key, value, ttl } => {
                let expires = ttl.map(|ttl| now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
                let version = Version { created, modified: revision, expires, value: Some(value.clone()) };
                Some((key.clone(), version))
            }
            Op::Delete { key } => {
                current?;
                Some((key.clone(), Version { created, modified: revision, expires: None, value: None }))
            }
        }
    }
}
