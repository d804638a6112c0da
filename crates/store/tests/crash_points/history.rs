//! What was asked of a store and what it answered: the judge of every state that a crash can leave.
//!
//! Each object comes with the address it took, as a Service does with its IPAddress: two keys, one transaction. Not
//! responsible for crashes (`image`) or for what runs meanwhile (`main`).

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use store::{Compare, Embedded, Op, Range, Revision, Store, Txn};

use crate::recorder::Happened;

const NAMES: usize = 6;

/// A key's new value, or its end.
type Changes = Vec<(String, Option<Vec<u8>>)>;

pub type State = BTreeMap<String, Vec<u8>>;

/// Every transaction that was ever tried, and those that were acknowledged, by revision.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub tried: Vec<Changes>,
    pub committed: BTreeMap<i64, Changes>,
}

/// What a store had answered when it crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    pub revision: i64,
    pub compacted: i64,
}

impl Promised {
    pub fn note(&mut self, happened: &Happened) {
        match happened {
            Happened::Acknowledged { revision } => self.revision = self.revision.max(*revision),
            Happened::Compacted { at } => self.compacted = self.compacted.max(*at),
            _ => {}
        }
    }
}

impl History {
    /// The state at a revision, as acknowledged.
    pub fn state(&self, at: i64) -> State {
        let mut state = State::new();
        for (_, changes) in self.committed.range(..=at) {
            apply(&mut state, changes);
        }
        state
    }

    /// Holds a store that was opened after a crash against what was promised before it. With `failures` the last
    /// transaction may be one whose client was told that it failed: it may have happened, once and whole.
    pub async fn judge(&self, store: &Embedded, promised: Promised, failures: bool) -> Result<(), String> {
        let revision = store.revision().await.map_err(|e| e.to_string())?.0;
        if revision < promised.revision {
            return Err(format!("revision {revision} is below the acknowledged {}", promised.revision));
        }
        let found = store.range(Range::default()).await.map_err(|e| e.to_string())?;
        let found: State = found.entries.iter().map(|e| (e.key.to_string(), e.value.to_vec())).collect();
        halves(&found)?;
        if found == self.state(revision) && (revision == 1 || self.committed.contains_key(&revision)) {
            return self.batches(store, promised, revision).await;
        }
        if !failures || revision != promised.revision + 1 {
            return Err(format!("at revision {revision} it holds {}", difference(&found, &self.state(revision))));
        }
        let before = self.state(promised.revision);
        let explained = self.tried.iter().any(|changes| {
            let mut state = before.clone();
            apply(&mut state, changes);
            state == found
        });
        match explained {
            true => self.batches(store, promised, promised.revision).await,
            false => Err(format!("no transaction leads from revision {} to what it holds", promised.revision)),
        }
    }

    /// The history the store can still tell, up to a revision, is the one that was.
    async fn batches(&self, store: &Embedded, promised: Promised, until: i64) -> Result<(), String> {
        let mut after = promised.compacted;
        let mut watch = loop {
            match store.watch("", Revision(after)).await {
                Ok(watch) => break watch,
                // A compaction that nobody had heard of may have happened.
                Err(store::Error::Compacted { compacted, .. }) if compacted.0 > after => after = compacted.0,
                Err(error) => return Err(error.to_string()),
            }
        };
        for revision in after.max(1) + 1..=until {
            let batch = watch.next().await.map_err(|e| e.to_string())?;
            let changes: Changes = batch
                .events
                .iter()
                .map(|event| (event.key.to_string(), event.entry.as_ref().map(|entry| entry.value.to_vec())))
                .collect();
            let expected = sorted(self.committed.get(&revision).cloned().unwrap_or_default());
            if batch.revision.0 != revision || sorted(changes) != expected {
                return Err(format!("revision {revision} is told as {}, with other changes", batch.revision));
            }
        }
        Ok(())
    }
}

fn sorted(mut changes: Changes) -> Changes {
    changes.sort();
    changes
}

fn apply(state: &mut State, changes: &Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(state.insert(key.clone(), value.clone())),
            None => drop(state.remove(key)),
        }
    }
}

/// An object without its address, or with another's.
fn halves(state: &State) -> Result<(), String> {
    for name in 0..NAMES {
        let token = |key: String| state.get(&key).map(|value| value[..8].to_vec());
        let (service, address) = (token(service(name)), token(address(name)));
        if service != address {
            return Err(format!("{name} is half there: {service:?} and {address:?}"));
        }
    }
    Ok(())
}

fn difference(found: &State, expected: &State) -> String {
    let of = |state: &State| state.iter().map(|(k, v)| format!("{k}={:?}", &v[..8.min(v.len())])).collect::<Vec<_>>();
    format!("{:?} instead of {:?}", of(found), of(expected))
}

fn service(name: usize) -> String {
    format!("/registry/services/default/s{name}")
}

fn address(name: usize) -> String {
    format!("/registry/ipaddresses/10.96.0.{name}")
}

/// A transaction nobody else makes, and what it changes if it commits now. The number makes its values unique.
pub async fn transaction(store: &Embedded, number: usize, longest: usize, random: &mut StdRng) -> (Txn, Changes) {
    let name = random.random_range(0..NAMES);
    let keys = [service(name), address(name)];
    let current = store.get(&keys[0]).await.unwrap();
    let compare = match &current {
        Some(entry) => Compare::Modified(entry.key.clone(), entry.modified),
        None => Compare::Absent(keys[0].as_str().into()),
    };
    if current.is_some() && random.random_bool(0.25) {
        let ops = keys.iter().map(|key| Op::delete(key.as_str())).collect();
        return (Txn { compares: vec![compare], ops }, keys.map(|key| (key, None)).to_vec());
    }
    let mut values = Vec::new();
    for key in keys {
        let mut value = format!("{number:08}").into_bytes();
        let length = random.random_range(0..longest);
        value.extend((0..length).map(|n| (n * 31 + number) as u8));
        values.push((key, value));
    }
    let ops = values.iter().map(|(key, value)| Op::put(key.as_str(), value.clone())).collect();
    let changes = values.into_iter().map(|(key, value)| (key, Some(value))).collect();
    (Txn { compares: vec![compare], ops }, changes)
}
