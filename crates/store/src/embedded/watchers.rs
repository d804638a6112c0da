//! The open watches of an embedded store: who gets which batch, and who fell behind.
//!
//! Not responsible for when: the committer delivers after a commit is durable.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::state::narrowed;
use crate::{Batch, Revision, Watch, WatchEnd};

struct Watcher {
    sender: mpsc::Sender<Arc<Batch>>,
    slow: Arc<AtomicBool>,
}

/// All open watches, by prefix: watchers of one prefix share what they are sent.
pub struct Watchers {
    by_prefix: HashMap<Arc<str>, Vec<Watcher>>,
    /// Batches one watcher may leave unread.
    depth: usize,
    /// Up to where everything was delivered.
    delivered: Arc<AtomicI64>,
}

impl Watchers {
    pub fn new(depth: usize, revision: Revision) -> Self {
        Watchers { by_prefix: HashMap::new(), depth, delivered: Arc::new(AtomicI64::new(revision.0)) }
    }

    /// A new watch that first hands out `backlog`, then everything delivered from now on.
    pub fn open(&mut self, prefix: &str, after: Revision, backlog: VecDeque<Arc<Batch>>) -> EmbeddedWatch {
        let (sender, receiver) = mpsc::channel(self.depth);
        let slow = Arc::new(AtomicBool::new(false));
        self.by_prefix.entry(Arc::from(prefix)).or_default().push(Watcher { sender, slow: slow.clone() });
        EmbeddedWatch { after, backlog, receiver, slow, delivered: self.delivered.clone() }
    }

    pub fn deliver(&mut self, batch: &Arc<Batch>) {
        self.by_prefix.retain(|prefix, watchers| {
            if let Some(batch) = narrowed(batch, prefix) {
                watchers.retain(|watcher| watcher.send(&batch, self.depth));
            }
            !watchers.is_empty()
        });
        self.delivered.store(batch.revision.0, Ordering::Release);
    }

    /// Drops watchers whose receiver is gone although nothing was sent to them.
    pub fn sweep(&mut self) {
        self.by_prefix.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.sender.is_closed());
            !watchers.is_empty()
        });
    }
}

impl Watcher {
    /// False when the watcher is to be dropped. A watcher that is `depth` behind is closed rather than waited for:
    /// it can list again, while waiting would stop every writer.
    fn send(&self, batch: &Arc<Batch>, depth: usize) -> bool {
        match self.sender.try_send(batch.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(depth, revision = batch.revision.0, "closing a watcher that fell behind");
                self.slow.store(true, Ordering::Release);
                false
            }
        }
    }
}

/// An open watch of an embedded store.
pub struct EmbeddedWatch {
    after: Revision,
    backlog: VecDeque<Arc<Batch>>,
    receiver: mpsc::Receiver<Arc<Batch>>,
    slow: Arc<AtomicBool>,
    delivered: Arc<AtomicI64>,
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Arc<Batch>, WatchEnd> {
        loop {
            let batch = match self.backlog.pop_front() {
                Some(batch) => batch,
                None => match self.receiver.recv().await {
                    Some(batch) => batch,
                    None if self.slow.load(Ordering::Acquire) => return Err(WatchEnd::Slow),
                    None => return Err(WatchEnd::Closed),
                },
            };
            // A watch may start in the future (another server's revision): what is older isn't its business.
            if batch.revision > self.after {
                return Ok(batch);
            }
        }
    }

    fn progress(&mut self) -> Option<Revision> {
        // Read before looking at the queue: everything up to it was queued before it was stored.
        let delivered = Revision(self.delivered.load(Ordering::Acquire));
        let done = self.backlog.is_empty() && self.receiver.is_empty() && !self.slow.load(Ordering::Acquire);
        done.then(|| delivered.max(self.after))
    }
}
