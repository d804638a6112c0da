//! Saying what happens often once in a while: a pod must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of event.
pub(crate) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    pub(crate) const fn new() -> Self {
        Seldom(Mutex::new((None, 0)))
    }

    /// It has happened. When it is time to say so: how often it has happened, unsaid, since the last time.
    pub(crate) fn told(&self) -> Option<u64> {
        self.told_at(Instant::now())
    }

    fn told_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            *unsaid += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_the_others_are_counted() {
        let (seldom, begin) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.told_at(begin), Some(0));
        assert_eq!(seldom.told_at(begin + PAUSE / 2), None);
        assert_eq!(seldom.told_at(begin + PAUSE / 2), None);
        assert_eq!(seldom.told_at(begin + PAUSE), Some(2));
        assert_eq!(seldom.told_at(begin + PAUSE * 3), Some(0));
    }
}
