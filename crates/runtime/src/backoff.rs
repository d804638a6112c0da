//! How long to wait before trying again. Not responsible for counting attempts or for sleeping.

use std::time::Duration;

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
}
