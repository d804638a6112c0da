//! Back-off between restarts of a container and between pulls of an image, by kubelet's numbers.

use std::time::Duration;

use crate::clock::Moment;

/// First delay; each next one is twice as long.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
const MAX: Duration = Duration::from_secs(300);
/// A run at least this long after the last start wipes the slate.
const FORGET: Duration = Duration::from_secs(600);

/// How long to wait before something that keeps failing is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Moment,
}

impl Backoff {
    /// The delay in force for a failure at `failed_at`; none before the first repetition or after a good run.
    pub fn delay(&self, failed_at: Moment) -> Option<Duration> {
        let entry = self.entry?;
        if failed_at.since(entry.updated) > FORGET { None } else { Some(entry.delay) }
    }

    /// The moment until which to wait after a failure at `failed_at`.
    pub fn until(&self, failed_at: Moment) -> Option<Moment> {
        self.delay(failed_at).map(|delay| failed_at.plus(delay))
    }

    /// Counts one more try, made at `now` because of a failure at `failed_at`.
    pub fn tried(&mut self, failed_at: Moment, now: Moment) {
        let delay = match self.delay(failed_at) {
            Some(delay) => (delay * 2).min(MAX),
            None => INITIAL,
        };
        self.entry = Some(Entry { delay, updated: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment::from_seconds(seconds)
    }

    #[test]
    fn the_first_repetition_is_immediate_then_ten_seconds_doubling_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..8 {
            delays.push(backoff.until(now).map_or(0, |until| until.since(now).as_secs()));
            let start = backoff.until(now).unwrap_or(now);
            backoff.tried(now, start);
            now = start.plus(Duration::from_secs(1));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_run_of_more_than_ten_minutes_starts_over() {
        let mut backoff = Backoff::default();
        backoff.tried(at(0), at(0));
        backoff.tried(at(1), at(11));
        assert_eq!(backoff.delay(at(600)), Some(Duration::from_secs(20)));
        assert_eq!(backoff.delay(at(612)), None);
        backoff.tried(at(612), at(612));
        assert_eq!(backoff.delay(at(613)), Some(INITIAL));
    }
}
