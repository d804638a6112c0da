//! Whether `/healthz` says yes: a switch that a test turns.

use std::sync::atomic::{AtomicBool, Ordering};

static HEALTHY: AtomicBool = AtomicBool::new(true);

pub fn healthy() -> bool {
    HEALTHY.load(Ordering::Relaxed)
}

pub fn set(healthy: bool) {
    HEALTHY.store(healthy, Ordering::Relaxed);
}
