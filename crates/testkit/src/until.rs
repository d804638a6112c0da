//! Waiting for what the API can't announce: the kernel's state, a process's end.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Multiplies every deadline, for machines that are slower than that: an emulated one, for example.
const FACTOR: &str = "PORTOLAN_TEST_PATIENCE";
const PAUSE: Duration = Duration::from_millis(5);

/// Half a minute, or as many times that as `PORTOLAN_TEST_PATIENCE` says.
pub fn patience() -> Duration {
    slowly(PATIENCE)
}

/// A deadline on this machine, from what it is on an ordinary one.
pub fn slowly(deadline: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    deadline * *TIMES.get_or_init(|| factor(std::env::var(FACTOR).ok()))
}

fn factor(text: Option<String>) -> u32 {
    let number = |text: String| text.parse().unwrap_or_else(|e| panic!("{FACTOR}={text}: {e}"));
    text.map_or(1, number)
}

/// Tries until it succeeds; fails with the last reason when the time is over.
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if begun.elapsed() > patience() => panic!("{what}: not within {:?}: {reason}", patience()),
            // Packets and processes have no event to wait for.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::factor;

    #[test]
    fn deadlines_are_multiplied_by_what_is_asked_for() {
        assert_eq!((factor(None), factor(Some("10".into()))), (1, 10));
    }
}
