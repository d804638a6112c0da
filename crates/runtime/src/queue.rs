//! Keys waiting to be looked at. Each key is in the queue at most once and handed out to one worker at a time; a key
//! added while it is being worked on comes back when that work is done. Not responsible for doing the work.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// A coalescing queue without artificial delay. Its size is bounded by the number of distinct keys.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    processing: HashSet<K>,
    later: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Debug + Ord + Hash> Queue<K> {
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new(), backoff }
    }

    /// Asks for a look at `key` as soon as a worker is free.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Asks for a look at `key` after `delay`, or earlier if that was asked for before.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.lock().add_at(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// The next key. It stays with the caller until `done`. Cancel-safe. For one consumer.
    pub async fn next(&self) -> K {
        loop {
            let deadline = match self.lock().pop(Instant::now()) {
                Pop::Key(key) => return key,
                Pop::Wait(deadline) => deadline,
            };
            match deadline {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends the work on `key` after success: its failures are forgotten.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.failures.remove(key);
        state.finish(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the work on `key` after a failure; it comes back after its own back-off, for ever. Returns how often in a
    /// row it has failed and the wait.
    pub fn failed(&self, key: &K) -> (u32, Duration) {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let delay = self.backoff.delay(failures);
        state.finish(key);
        state.add_at(key.clone(), Instant::now() + delay);
        drop(state);
        self.wake.notify_one();
        (failures, delay)
    }

    /// Keys whose last attempt failed, with how often in a row.
    pub fn failing(&self) -> Vec<(K, u32)> {
        let mut failing: Vec<_> = self.lock().failures.iter().map(|(key, count)| (key.clone(), *count)).collect();
        failing.sort();
        failing
    }

    /// Whether nothing is queued or being worked on (delayed keys aside).
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.ready.is_empty() && state.processing.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Pop<K> {
    Key(K),
    Wait(Option<Instant>),
}

impl<K: Clone + Debug + Ord + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(earlier) = self.due.get(&key) {
            if *earlier <= at {
                return;
            }
            self.later.remove(&(*earlier, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    fn pop(&mut self, now: Instant) -> Pop<K> {
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                break;
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
        match self.ready.pop_front() {
            Some(key) => {
                self.dirty.remove(&key);
                self.processing.insert(key.clone());
                Pop::Key(key)
            }
            None => Pop::Wait(self.later.first().map(|(at, _)| *at)),
        }
    }

    fn finish(&mut self, key: &K) {
        self.processing.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue<&'static str> {
        Queue::new(Backoff { first: Duration::from_millis(10), last: Duration::from_secs(1) })
    }

    /// The next key as of `now`, or when there may be one.
    fn pop(queue: &Queue<&'static str>, now: Instant) -> Result<&'static str, Option<Instant>> {
        match queue.lock().pop(now) {
            Pop::Key(key) => Ok(key),
            Pop::Wait(at) => Err(at),
        }
    }

    #[tokio::test]
    async fn a_burst_on_one_key_is_one_run() {
        let queue = queue();
        for _ in 0..100 {
            queue.add("a");
        }
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_idle());
    }

    #[tokio::test]
    async fn a_key_added_during_its_run_waits_for_the_end_of_that_run() {
        let queue = queue();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "b", "`a` must not be handed out twice at once");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[test]
    fn failures_back_off_per_key_and_success_forgets_them() {
        let (queue, mut now) = (queue(), Instant::now());
        queue.add("a");
        for failures in 1..=20 {
            assert_eq!(pop(&queue, now), Ok("a"), "retries never end");
            let before = Instant::now();
            let (counted, delay) = queue.failed(&"a");
            assert_eq!(counted, failures);
            assert_eq!(queue.failing(), vec![("a", failures)]);
            let due = pop(&queue, before).expect_err("not due yet").expect("due some time");
            assert!(due >= before + delay, "the wait lasts at least the back-off");
            now = due;
        }
        queue.add("b");
        assert_eq!(pop(&queue, Instant::now()), Ok("b"), "a failing key does not delay another");
        assert_eq!(pop(&queue, now), Ok("a"));
        queue.done(&"a");
        assert!(queue.failing().is_empty());
    }

    #[test]
    fn the_earliest_of_several_delays_wins() {
        let (queue, now) = (queue(), Instant::now());
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(9));
        assert!(pop(&queue, now).is_err());
        assert_eq!(pop(&queue, now + Duration::from_secs(3)), Ok("a"));
        queue.done(&"a");
        assert_eq!(pop(&queue, now + Duration::from_secs(60)), Err(None), "and only once");
    }
}
