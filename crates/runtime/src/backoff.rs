//! How long to wait before trying again. Not responsible for counting attempts or for sleeping.

use std::time::{Duration, Instant};

use rand::RngExt;

/// Doubles from `first` to `last`, with up to a quarter taken off at random so that many failing keys do not march in
/// step. There is no last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), last: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait after the `failures`th failure in a row, before jitter.
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.last)
    }

    /// The wait after the `failures`th failure in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        self.ceiling(failures).mul_f64(rand::rng().random_range(0.75..=1.0))
    }
}

/// What watches wait before they ask the API server again: it may have been killed, and whoever takes over is to be found
/// within a second. (kube's own default doubles up to half a minute, and begins anew only after two minutes without trouble.)
pub fn watching() -> Watching {
    let backoff = Backoff { first: Duration::from_millis(10), last: Duration::from_secs(1) };
    Watching { backoff, failures: 0, last: Instant::now() }
}

/// The waits of one watch.
#[derive(Debug)]
pub struct Watching {
    backoff: Backoff,
    failures: u32,
    last: Instant,
}

impl Watching {
    /// How long nothing may have failed before the waits begin anew: a watcher's first event comes before it has asked.
    const CALM: Duration = Duration::from_secs(5);
}

impl Iterator for Watching {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        (self.failures, self.last) = (self.failures.saturating_add(1), Instant::now());
        Some(self.backoff.delay(self.failures))
    }
}

impl kube::runtime::utils::Backoff for Watching {
    fn reset(&mut self) {
        if self.last.elapsed() > Self::CALM {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_last_step_and_never_overflows() {
        let backoff = Backoff { first: Duration::from_millis(10), last: Duration::from_secs(1) };
        assert_eq!(backoff.ceiling(1), Duration::from_millis(10));
        assert_eq!(backoff.ceiling(3), Duration::from_millis(40));
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_secs(1));
        assert!(backoff.delay(3) <= Duration::from_millis(40) && backoff.delay(3) >= Duration::from_millis(30));
    }

    #[test]
    fn a_watch_asks_again_within_a_second_however_often_it_failed() {
        let mut waits = watching();
        assert!(waits.next().is_some_and(|wait| wait <= Duration::from_millis(10)));
        assert!(waits.by_ref().take(100).all(|wait| wait <= Duration::from_secs(1)));
        kube::runtime::utils::Backoff::reset(&mut waits);
        assert!(waits.next().is_some_and(|wait| wait > Duration::from_millis(700)), "it failed just now");
    }
}
