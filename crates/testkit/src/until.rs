//! Waiting for what the API can't announce: the kernel's state, a process's end.

use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before a test gives it up.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// Tries until it succeeds; fails with the last reason when the time is over.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if begun.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}: {reason}"),
            // Packets and processes have no event to wait for.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
