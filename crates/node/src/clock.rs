//! Time as the agent's decisions see it: a value that is passed in, in milliseconds, and never runs backwards.
//!
//! Not responsible for waiting: the worker sleeps until the moment a decision names.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// A point in time, milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    pub const fn from_seconds(seconds: i64) -> Self {
        Moment(seconds.saturating_mul(1000))
    }

    pub const fn from_millis(millis: i64) -> Self {
        Moment(millis)
    }

    pub fn of(time: &Time) -> Self {
        Moment(time.0.as_millisecond())
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub fn plus(self, duration: Duration) -> Self {
        Moment(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier`; zero when it is before.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As objects carry it: whole seconds.
    pub fn time(self) -> Time {
        time_of(self.seconds())
    }

    pub fn micro_time(self) -> MicroTime {
        MicroTime(Timestamp::from_millisecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

/// Unix seconds as objects carry them; out of range becomes the epoch.
pub fn time_of(seconds: i64) -> Time {
    Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Wall time at the agent's start, advanced by the monotonic clock: back-offs and probes don't jump with the wall.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Moment,
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { wall: Moment(Timestamp::now().as_millisecond()), started: Instant::now() }
    }

    pub fn now(&self) -> Moment {
        self.wall.plus(self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate_and_show_whole_seconds() {
        let noon = Moment::from_millis(12_345);
        assert_eq!(noon.since(Moment::from_seconds(20)), Duration::ZERO);
        assert_eq!(noon.plus(Duration::from_millis(655)).seconds(), 13);
        assert_eq!(noon.time().0.as_second(), 12);
        assert_eq!(Moment::from_seconds(i64::MAX).plus(Duration::MAX).time().0, Timestamp::UNIX_EPOCH);
    }
}
