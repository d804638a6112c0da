//! Runs a reconciler over a queue: one worker per key at a time, several keys at once, failures retried for ever with
//! a back-off per key. Not responsible for deciding which keys a change concerns: handlers on the caches do that.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;
use crate::readiness::Gate;

/// What a successful look at a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Another look after this time even if nothing changes.
    After(Duration),
}

/// Makes one key's world as it should be. Called again whenever something may have changed; must converge from
/// anything and write nothing when nothing is to be done.
pub trait Reconcile: Send + Sync + 'static {
    type Key: Clone + Debug + Display + Ord + Hash + Send + Sync + 'static;
    type Error: Error + Send + Sync + 'static;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, Self::Error>> + Send;
}

/// A reconciler with its queue.
#[derive(Debug)]
pub struct Driver<R: Reconcile> {
    name: &'static str,
    reconciler: Arc<R>,
    queue: Arc<Queue<R::Key>>,
    workers: usize,
}

impl<R: Reconcile> Driver<R> {
    pub fn new(name: &'static str, reconciler: R, queue: Arc<Queue<R::Key>>) -> Self {
        Self { name, reconciler: Arc::new(reconciler), queue, workers: 8 }
    }

    /// How many keys are worked on at once (8 unless told).
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn queue(&self) -> Arc<Queue<R::Key>> {
        self.queue.clone()
    }

    /// Waits for `synced`, opens `gate`, then works until cancelled; work begun is finished first.
    pub async fn run(self, synced: impl Future<Output = ()> + Send, gate: Gate, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => return,
            () = synced => {}
        }
        tracing::debug!(controller = self.name, "caches are in step, starting");
        drop(gate);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                () = token.cancelled() => break,
                key = self.queue.next(), if running.len() < self.workers => {
                    let (reconciler, queue, name) = (self.reconciler.clone(), self.queue.clone(), self.name);
                    running.spawn(async move { attempt(name, &*reconciler, &queue, key).await });
                }
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(controller = self.name, %error, "a reconcile panicked; its key was put back");
                    }
                }
            }
        }
        while running.join_next().await.is_some() {}
    }
}

/// Puts a key back when its reconcile unwinds, so that a bug in one look loses no key.
struct Held<'a, K: Clone + Debug + Ord + Hash> {
    queue: &'a Queue<K>,
    key: Option<K>,
}

impl<K: Clone + Debug + Ord + Hash> Drop for Held<'_, K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.failed(&key);
        }
    }
}

async fn attempt<R: Reconcile>(name: &'static str, reconciler: &R, queue: &Queue<R::Key>, key: R::Key) {
    let mut held = Held { queue, key: Some(key.clone()) };
    let outcome = reconciler.reconcile(&key).await;
    held.key = None;
    match outcome {
        Ok(next) => {
            queue.done(&key);
            if let Next::After(delay) = next {
                queue.add_after(key, delay);
            }
        }
        Err(error) => {
            let (failures, delay) = queue.failed(&key);
            let error = chain(&error);
            // The first few failures are the ordinary conflicts of several writers.
            if failures > 3 {
                tracing::warn!(controller = name, %key, failures, ?delay, %error, "still failing, will retry");
            } else {
                tracing::debug!(controller = name, %key, failures, ?delay, %error, "failed, will retry");
            }
        }
    }
}

/// An error with its sources, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::backoff::Backoff;
    use crate::readiness::Readiness;

    #[derive(Debug, thiserror::Error)]
    #[error("not yet")]
    struct NotYet;

    #[derive(Default)]
    struct Counter {
        runs: AtomicUsize,
        inside: AtomicUsize,
        overlapped: AtomicUsize,
        progress: tokio::sync::Notify,
    }

    struct Flaky(Arc<Counter>);

    impl Reconcile for Flaky {
        type Key = String;
        type Error = NotYet;

        async fn reconcile(&self, key: &String) -> Result<Next, NotYet> {
            self.0.overlapped.fetch_max(self.0.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.0.inside.fetch_sub(1, Ordering::SeqCst);
            let run = self.0.runs.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.progress.notify_one();
            assert!(!(key == "panics" && run == 1), "by design of the test");
            if run < 4 { Err(NotYet) } else { Ok(Next::Wait) }
        }
    }

    async fn runs_of(key: &str) -> (usize, usize) {
        let counter = Arc::new(Counter::default());
        let queue = Arc::new(Queue::new(Backoff { first: Duration::from_millis(1), last: Duration::from_millis(4) }));
        queue.add(key.to_owned());
        let (token, readiness) = (CancellationToken::new(), Readiness::default());
        let driver = Driver::new("flaky", Flaky(counter.clone()), queue.clone());
        let task = tokio::spawn(driver.run(async {}, readiness.gate("flaky"), token.clone()));
        while counter.runs.load(Ordering::SeqCst) < 4 {
            counter.progress.notified().await;
            queue.add(key.to_owned());
        }
        assert!(readiness.is_ready());
        token.cancel();
        task.await.expect("the driver ends cleanly");
        (counter.runs.load(Ordering::SeqCst), counter.overlapped.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn retries_until_it_works_and_never_runs_one_key_twice_at_once() {
        let (runs, overlapped) = runs_of("a").await;
        assert!(runs >= 4);
        assert_eq!(overlapped, 1);
    }

    #[tokio::test]
    async fn a_panicking_reconcile_does_not_lose_its_key() {
        assert!(runs_of("panics").await.0 >= 4);
    }
}
