//! How far the proxy is, for whoever waits for it or asks after its health. Holds facts only; what they mean for a probe
//! is decided in `health`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use service_model::{IpFamily, Revision};
use tokio::sync::watch;

use crate::backend::Packets;
use crate::metrics::{LAST_QUEUED, LAST_SYNCED, Metrics, OF_A_MODE};
use crate::tally::Checks;

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
    /// The health checks of Services, as they are in force.
    checks: Arc<BTreeMap<IpFamily, watch::Sender<Checks>>>,
    progress: Arc<Mutex<Progress>>,
    metrics: Metrics,
    /// What was counted at the last look, by mode and family: whoever looks next counts what came since.
    packets: Arc<Mutex<BTreeMap<(&'static str, IpFamily), Packets>>>,
}

#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Since when each family has something it has not brought into force.
    pub pending_since: BTreeMap<IpFamily, Instant>,
    pub last_updated: BTreeMap<IpFamily, std::time::SystemTime>,
    /// The node is there and not about to be removed.
    pub node_eligible: bool,
    /// Why each family's last pass failed, if it did.
    pub failures: BTreeMap<IpFamily, String>,
}

/// Whom a mode's syncers report to. While one mode takes another's place that is somebody apart, and the proxy's own status
/// as soon as it has.
#[derive(Clone)]
pub(crate) struct Reporter {
    to: Arc<Mutex<Status>>,
}

impl Default for Status {
    fn default() -> Status {
        let applied = IpFamily::BOTH.map(|family| (family, watch::Sender::new(None)));
        let checks = IpFamily::BOTH.map(|family| (family, watch::Sender::new(Checks::default())));
        let progress = Progress { node_eligible: true, ..Progress::default() };
        Status {
            applied: Arc::new(applied.into()),
            checks: Arc::new(checks.into()),
            progress: Arc::new(Mutex::new(progress)),
            metrics: Metrics::default(),
            packets: Arc::default(),
        }
    }
}

impl Status {
    /// Follows what a family has in force; `None` until the first time.
    pub fn applied(&self, family: IpFamily) -> Option<watch::Receiver<Option<Applied>>> {
        self.applied.get(&family).map(watch::Sender::subscribe)
    }

    /// Knows of nothing in force yet. What it counts is this one's when it is taken in.
    pub(crate) fn apart(&self) -> Status {
        Status { packets: self.packets.clone(), ..Status::default() }
    }

    /// Counts as its own what somebody apart has counted, who is nobody's successor.
    pub(crate) fn take_counts(&self, other: &Status) {
        self.metrics.add_counts(&other.metrics);
    }

    /// Says from now on what the other says.
    fn adopt(&self, other: &Status) {
        self.metrics.add_counts(&other.metrics);
        self.metrics.replace_gauges(OF_A_MODE, &other.metrics);
        let theirs = other.progress();
        let mut progress = self.lock();
        let node_eligible = progress.node_eligible;
        *progress = Progress { node_eligible, ..theirs };
        drop(progress);
        for (family, sender) in self.applied.iter() {
            if let Some(applied) = other.applied.get(family).and_then(|sender| *sender.borrow()) {
                sender.send_replace(Some(applied));
            }
        }
        for (family, sender) in self.checks.iter() {
            if let Some(theirs) = other.checks.get(family) {
                sender.send_replace(theirs.borrow().clone());
            }
        }
    }

    pub(crate) fn checks(&self, family: IpFamily) -> Option<watch::Receiver<Checks>> {
        self.checks.get(&family).map(watch::Sender::subscribe)
    }

    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What has been counted since the last time anybody looked.
    pub(crate) fn packets_since(&self, mode: &'static str, family: IpFamily, now: Packets) -> Packets {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        now.since(packets.insert((mode, family), now).unwrap_or_default())
    }

    /// A mode's rules are gone, and what they have counted with them.
    pub(crate) fn forget_packets(&self, mode: &str) {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != mode);
    }

    pub(crate) fn pending(&self, family: IpFamily, since: Instant) {
        self.metrics.set_now(&LAST_QUEUED, &[family.address_type()]);
        self.lock().pending_since.entry(family).or_insert(since);
    }

    pub(crate) fn done(&self, family: IpFamily, applied: Applied, checks: &Checks) {
        let mut progress = self.lock();
        progress.pending_since.remove(&family);
        progress.failures.remove(&family);
        progress.last_updated.insert(family, std::time::SystemTime::now());
        drop(progress);
        self.metrics.set_now(&LAST_SYNCED, &[family.address_type()]);
        if let Some(sender) = self.checks.get(&family) {
            sender.send_if_modified(|before| {
                let changed = !Arc::ptr_eq(before, checks);
                before.clone_from(checks);
                changed
            });
        }
        if let Some(sender) = self.applied.get(&family) {
            sender.send_replace(Some(applied));
        }
    }

    pub(crate) fn failed(&self, family: IpFamily, reason: String) {
        self.lock().failures.insert(family, reason);
    }

    pub(crate) fn set_node_eligible(&self, eligible: bool) {
        self.lock().node_eligible = eligible;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    pub(crate) fn to(status: Status) -> Reporter {
        Reporter { to: Arc::new(Mutex::new(status)) }
    }

    pub(crate) fn report(&self, say: impl FnOnce(&Status)) {
        say(&self.to.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts something with whoever is reported to now.
    pub(crate) fn count(&self, count: impl FnOnce(&Metrics)) {
        self.report(|status| count(&status.metrics));
    }

    /// Tells `status` what has been reported so far, and everything that comes.
    pub(crate) fn turn_to(&self, status: &Status) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        status.adopt(&to);
        *to = status.clone();
    }
}
