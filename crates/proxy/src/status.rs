//! How far the proxy is, for whoever waits for it or asks after its health. Holds facts only; what they mean for a probe
//! is decided in `health`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use service_model::{IpFamily, Revision};
use tokio::sync::watch;

use crate::metrics::{LAST_QUEUED, LAST_SYNCED, Metrics};

/// What one family's syncer has last brought into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub revision: Revision,
    /// From the arrival of the oldest event in it to its being in force.
    pub latency: Duration,
}

/// Shared by everything that runs in a proxy. Clones are the same.
#[derive(Clone)]
pub struct Status {
    applied: Arc<BTreeMap<IpFamily, watch::Sender<Option<Applied>>>>,
    progress: Arc<Mutex<Progress>>,
    metrics: Metrics,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Since when each family has something it has not brought into force.
    pub pending_since: BTreeMap<IpFamily, Instant>,
    pub last_updated: BTreeMap<IpFamily, std::time::SystemTime>,
    /// The node is there and not about to be removed.
    pub node_eligible: bool,
}

impl Default for Status {
    fn default() -> Status {
        let applied = IpFamily::BOTH.map(|family| (family, watch::Sender::new(None)));
        let progress = Progress { node_eligible: true, ..Progress::default() };
        Status {
            applied: Arc::new(applied.into()),
            progress: Arc::new(Mutex::new(progress)),
            metrics: Metrics::default(),
        }
    }
}

impl Status {
    /// Follows what a family has in force; `None` until the first time.
    pub fn applied(&self, family: IpFamily) -> Option<watch::Receiver<Option<Applied>>> {
        self.applied.get(&family).map(watch::Sender::subscribe)
    }

    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn pending(&self, family: IpFamily, since: Instant) {
        self.metrics.set_now(&LAST_QUEUED, &[family.address_type()]);
        self.lock().pending_since.entry(family).or_insert(since);
    }

    pub(crate) fn done(&self, family: IpFamily, applied: Applied) {
        let mut progress = self.lock();
        progress.pending_since.remove(&family);
        progress.last_updated.insert(family, std::time::SystemTime::now());
        drop(progress);
        self.metrics.set_now(&LAST_SYNCED, &[family.address_type()]);
        if let Some(sender) = self.applied.get(&family) {
            sender.send_replace(Some(applied));
        }
    }

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.lock().node_eligible = eligible;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
