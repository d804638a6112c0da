//! The embedded store against a model, across reopening, and its watches and compaction.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use store::{Compare, Embedded, Error, Op, OpenError, Options, Outcome, Range, Revision, Store, Txn, WatchEnd};

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("store-{name}-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn put(key: &str, value: &str) -> Txn {
    Txn { compares: vec![], ops: vec![Op::put(key, value.to_owned())] }
}

fn delete(key: &str) -> Txn {
    Txn { compares: vec![], ops: vec![Op::delete(key)] }
}

async fn commit(store: &Embedded, txn: Txn) -> Revision {
    match store.txn(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn keys(store: &Embedded, range: Range) -> Vec<(String, String)> {
    let found = store.range(range).await.unwrap();
    found.entries.iter().map(|e| (e.key.to_string(), String::from_utf8(e.value.to_vec()).unwrap())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// Puts if absent.
    Create(u8, u8),
    /// Swaps two keys' values if the first was last written by the revision remembered for it, give or take.
    Swap(u8, u8, bool),
    Compact(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (0..6u8).prop_map(Step::Delete),
        2 => (0..6u8, any::<u8>()).prop_map(|(k, v)| Step::Create(k, v)),
        2 => (0..6u8, 0..6u8, any::<bool>()).prop_map(|(a, b, stale)| Step::Swap(a, b, stale)),
        1 => (0..4u8).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

type State = BTreeMap<String, (Vec<u8>, Revision, Revision)>;

fn name(key: u8) -> String {
    format!("/k/{key}")
}

/// The model: every state that ever was, by revision.
struct Model {
    states: BTreeMap<Revision, State>,
    compacted: Revision,
}

impl Model {
    fn now(&self) -> &State {
        self.states.last_key_value().unwrap().1
    }

    fn revision(&self) -> Revision {
        *self.states.last_key_value().unwrap().0
    }

    fn change(&mut self, changes: &[(String, Option<Vec<u8>>)]) -> Revision {
        let revision = self.revision().next();
        let mut state = self.now().clone();
        let mut effective = false;
        for (key, value) in changes {
            let created = state.get(key).map_or(revision, |(_, created, _)| *created);
            match value {
                Some(value) => drop(state.insert(key.clone(), (value.clone(), created, revision))),
                None if state.remove(key).is_none() => continue,
                None => {}
            }
            effective = true;
        }
        if !effective {
            return self.revision();
        }
        self.states.insert(revision, state);
        revision
    }
}

async fn check(store: &Embedded, model: &Model) {
    assert_eq!(store.revision().await.unwrap(), model.revision());
    for (revision, state) in &model.states {
        let range = Range { prefix: "/k/".into(), at: Some(*revision), ..Range::default() };
        match store.range(range).await {
            Ok(found) => {
                assert!(*revision >= model.compacted, "{revision} should be compacted");
                let found: State = found
                    .entries
                    .iter()
                    .map(|e| (e.key.to_string(), (e.value.to_vec(), e.created, e.modified)))
                    .collect();
                assert_eq!(&found, state, "at {revision}");
            }
            Err(Error::Compacted { .. }) => assert!(*revision < model.compacted, "{revision} is gone too early"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A watch from the oldest revision kept replays exactly the differences between the model's states.
async fn check_suffix(store: &Embedded, model: &Model) {
    let mut watch = store.watch("/k/", model.compacted).await.unwrap();
    let mut state = model.states.range(..=model.compacted.max(Revision::FIRST)).next_back().unwrap().1.clone();
    for (revision, expected) in model.states.range(model.compacted.next().max(Revision(2))..) {
        let batch = watch.next().await.unwrap();
        assert_eq!(batch.revision, *revision);
        for event in &batch.events {
            let previous = event.previous.as_ref().map(|e| (e.value.to_vec(), e.created, e.modified));
            assert_eq!(previous.as_ref(), state.get(&*event.key), "previous of {}", event.key);
            match &event.entry {
                Some(e) => drop(state.insert(e.key.to_string(), (e.value.to_vec(), e.created, e.modified))),
                None => drop(state.remove(&*event.key)),
            }
        }
        assert_eq!(&state, expected, "after the batch of {revision}");
    }
    assert_eq!(watch.progress(), Some(model.revision()));
}

async fn take(store: &Embedded, model: &mut Model, step: &Step) {
    match step {
        Step::Put(k, v) => {
            let expected = model.change(&[(name(*k), Some(vec![*v]))]);
            let txn = Txn { compares: vec![], ops: vec![Op::put(name(*k), vec![*v])] };
            assert_eq!(store.txn(txn).await.unwrap(), Outcome::Committed(expected));
        }
        Step::Delete(k) => {
            let expected = model.change(&[(name(*k), None)]);
            assert_eq!(store.txn(delete(&name(*k))).await.unwrap(), Outcome::Committed(expected));
        }
        Step::Create(k, v) => {
            let compares = vec![Compare::Absent(name(*k).into())];
            let outcome = store.txn(Txn { compares, ops: vec![Op::put(name(*k), vec![*v])] }).await.unwrap();
            match model.now().contains_key(&name(*k)) {
                true => assert!(matches!(outcome, Outcome::Conflict { current: Some(_), .. })),
                false => assert_eq!(outcome, Outcome::Committed(model.change(&[(name(*k), Some(vec![*v]))]))),
            }
        }
        Step::Swap(a, b, stale) if a != b => {
            let (Some(left), Some(right)) = (model.now().get(&name(*a)).cloned(), model.now().get(&name(*b)).cloned())
            else {
                return;
            };
            let revision = if *stale { Revision(left.2.0 - 1) } else { left.2 };
            let compares = vec![Compare::Modified(name(*a).into(), revision)];
            let ops = vec![Op::put(name(*a), right.0.clone()), Op::put(name(*b), left.0.clone())];
            let outcome = store.txn(Txn { compares, ops }).await.unwrap();
            match stale {
                true => assert!(matches!(outcome, Outcome::Conflict { .. })),
                false => {
                    let expected = model.change(&[(name(*a), Some(right.0)), (name(*b), Some(left.0))]);
                    assert_eq!(outcome, Outcome::Committed(expected));
                }
            }
        }
        Step::Swap(..) | Step::Reopen => {}
        Step::Compact(back) => {
            let at = Revision(model.revision().0 - i64::from(*back));
            match store.compact(at).await {
                Ok(()) => model.compacted = at,
                Err(Error::Compacted { .. }) => assert!(at <= model.compacted),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map_of_states(steps in steps(), durable in any::<bool>()) {
        let scratch = Scratch::new("model");
        let open = || match durable {
            true => Embedded::open(&scratch.database(), Options::default()).unwrap(),
            false => Embedded::in_memory(Options::default()).unwrap(),
        };
        let mut store = open();
        let mut model = Model { states: BTreeMap::from([(Revision::FIRST, State::new())]), compacted: Revision(0) };
        block_on(async {
            for step in &steps {
                if matches!(step, Step::Reopen) && durable {
                    drop(store);
                    store = open();
                }
                take(&store, &mut model, step).await;
            }
            check(&store, &model).await;
            check_suffix(&store, &model).await;
        });
    }
}

#[test]
fn range_pages_by_key_and_counts_the_rest() {
    block_on(async {
        let store = Embedded::in_memory(Options::default()).unwrap();
        for key in ["/a/1", "/a/2", "/a/3", "/b/1"] {
            commit(&store, put(key, key)).await;
        }
        let page = store.range(Range { limit: 2, ..Range::prefix("/a/") }).await.unwrap();
        assert_eq!((page.entries.len(), page.remaining), (2, 1));
        let rest = Range { start: "/a/2\0".into(), ..Range::prefix("/a/") };
        assert_eq!(keys(&store, rest).await, pairs(&[("/a/3", "/a/3")]));
        let future = store.range(Range { at: Some(Revision(99)), ..Range::prefix("/a/") }).await;
        assert!(matches!(future, Err(Error::Future { requested: Revision(99), current: Revision(5) })));
    });
}

#[test]
fn a_transaction_is_all_or_nothing_and_one_revision() {
    block_on(async {
        let store = Embedded::in_memory(Options::default()).unwrap();
        let mut watch = store.watch("/", Revision::FIRST).await.unwrap();
        let both = vec![Op::put("/x", "1"), Op::put("/y", "1")];
        let revision = commit(&store, Txn { compares: vec![Compare::Absent("/x".into())], ops: both.clone() }).await;
        let again = store.txn(Txn { compares: vec![Compare::Absent("/y".into())], ops: both }).await.unwrap();
        assert!(matches!(again, Outcome::Conflict { ref key, .. } if &**key == "/y"));
        let twice = Txn { compares: vec![], ops: vec![Op::put("/x", "2"), Op::delete("/x")] };
        assert!(matches!(store.txn(twice).await, Err(Error::ChangedTwice(_))));
        let batch = watch.next().await.unwrap();
        assert_eq!((batch.revision, batch.events.len()), (revision, 2));
        assert_eq!(watch.progress(), Some(revision));
    });
}

#[test]
fn a_watch_sees_only_its_prefix_and_starts_after_its_revision() {
    block_on(async {
        let store = Embedded::in_memory(Options::default()).unwrap();
        let first = commit(&store, put("/a/1", "old")).await;
        let mut live = store.watch("/a/", first).await.unwrap();
        commit(&store, put("/b/1", "other")).await;
        let both = Txn { compares: vec![], ops: vec![Op::put("/a/1", "new"), Op::put("/b/1", "new")] };
        let last = commit(&store, both).await;
        let mut replay = store.watch("/a/", first).await.unwrap();
        for watch in [&mut live, &mut replay] {
            let batch = watch.next().await.unwrap();
            assert_eq!((batch.revision, batch.events.len()), (last, 1));
            assert_eq!(batch.events[0].previous.as_ref().unwrap().value, "old".as_bytes());
        }
        commit(&store, put("/b/1", "unseen")).await;
        assert_eq!(live.progress(), Some(last.next()), "others' writes are progress too");
    });
}

#[test]
fn a_slow_watcher_is_closed_and_the_others_live_on() {
    block_on(async {
        let store = Embedded::in_memory(Options { watch_depth: 4, ..Options::default() }).unwrap();
        let mut slow = store.watch("/", Revision::FIRST).await.unwrap();
        let mut quick = store.watch("/", Revision::FIRST).await.unwrap();
        for n in 0..8 {
            commit(&store, put("/k", &n.to_string())).await;
            quick.next().await.unwrap();
        }
        for _ in 0..4 {
            slow.next().await.unwrap();
        }
        assert_eq!(slow.next().await, Err(WatchEnd::Slow));
        drop(store);
        assert_eq!(quick.next().await, Err(WatchEnd::Closed));
    });
}

#[test]
fn compaction_forgets_the_past_and_keeps_the_present() {
    block_on(async {
        let scratch = Scratch::new("compaction");
        let store = Embedded::open(&scratch.database(), Options::default()).unwrap();
        commit(&store, put("/a", "1")).await;
        commit(&store, put("/b", "1")).await;
        commit(&store, delete("/b")).await;
        let last = commit(&store, put("/c", "1")).await;
        commit(&store, delete("/c")).await;
        store.compact(last.next()).await.unwrap();
        assert!(matches!(store.watch("/", last).await, Err(Error::Compacted { .. })));
        drop(store);
        let store = Embedded::open(&scratch.database(), Options::default()).unwrap();
        assert_eq!(store.revision().await.unwrap(), last.next(), "a compacted deletion keeps its revision");
        assert_eq!(keys(&store, Range::prefix("/")).await, pairs(&[("/a", "1")]));
        assert!(matches!(store.watch("/", last).await, Err(Error::Compacted { .. })));
        assert_eq!(commit(&store, put("/b", "2")).await, last.next().next());
    });
}

#[test]
fn a_key_with_a_time_to_live_ends_also_after_reopening() {
    block_on(async {
        let scratch = Scratch::new("ttl");
        let store = Embedded::open(&scratch.database(), Options::default()).unwrap();
        let ttl = Some(Duration::from_millis(80));
        let ops = vec![
            Op::Put { key: "/short".into(), value: "1".into(), ttl },
            Op::Put { key: "/renewed".into(), value: "1".into(), ttl },
        ];
        commit(&store, Txn { compares: vec![], ops }).await;
        let renewed = commit(&store, put("/renewed", "2")).await;
        drop(store);
        let store = Embedded::open(&scratch.database(), Options::default()).unwrap();
        let mut watch = store.watch("/", renewed).await.unwrap();
        let batch = watch.next().await.unwrap();
        assert_eq!((&*batch.events[0].key, &batch.events[0].entry), ("/short", &None));
        assert_eq!(keys(&store, Range::prefix("/")).await, pairs(&[("/renewed", "2")]));
    });
}

#[test]
fn a_second_opener_is_told_who_holds_the_database() {
    let scratch = Scratch::new("lock");
    let _held = Embedded::open(&scratch.database(), Options::default()).unwrap();
    match Embedded::open(&scratch.database(), Options::default()) {
        Err(OpenError::Locked { holder, .. }) => {
            assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened twice"),
    }
}

#[test]
fn only_the_owner_can_read_what_is_stored() {
    block_on(async {
        let scratch = Scratch::new("private");
        let store = Embedded::open(&scratch.database(), Options::default()).unwrap();
        commit(&store, put("/secret", "x")).await;
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            let mode = std::fs::metadata(scratch.0.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    });
}

#[test]
fn racing_writers_each_win_their_own_compare_and_swap() {
    block_on(async {
        let scratch = Scratch::new("race");
        let store = Arc::new(Embedded::open(&scratch.database(), Options::default()).unwrap());
        commit(&store, put("/counter", "0")).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = store.clone();
            tasks.spawn(async move {
                let mut done = 0;
                while done < 20 {
                    let entry = store.get("/counter").await.unwrap().unwrap();
                    let count: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let compares = vec![Compare::Modified(entry.key.clone(), entry.modified)];
                    let ops = vec![Op::put(entry.key, (count + 1).to_string())];
                    if let Outcome::Committed(_) = store.txn(Txn { compares, ops }).await.unwrap() {
                        done += 1;
                    }
                }
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
        assert_eq!(store.get("/counter").await.unwrap().unwrap().value, "320".as_bytes());
    });
}

#[test]
fn outdated_values_are_bounded_in_bytes() {
    block_on(async {
        let store = Embedded::in_memory(Options { keep_bytes: 50_000, ..Options::default() }).unwrap();
        let value = "x".repeat(1_000);
        for n in 0..100 {
            commit(&store, put(&format!("live{n}"), &value)).await;
        }
        let early = store.revision().await.unwrap();
        let watched = |after| store.watch("", after);
        assert!(watched(early).await.is_ok(), "what is live is not outdated");
        for _ in 0..60 {
            commit(&store, put("often", &value)).await;
        }
        let late = commit(&store, delete("often")).await;
        assert!(matches!(watched(early).await, Err(Error::Compacted { .. })));
        assert!(watched(Revision(late.0 - 10)).await.is_ok(), "the younger half stays");
        assert_eq!(keys(&store, Range::prefix("live")).await.len(), 100);
    });
}
