//! When a probe is due and what its results add up to.
//!
//! Upstream probes once per period, the first time up to a whole period after the start. Here the first probe is made
//! at once (after `initialDelaySeconds`), and until the first success startup and readiness probes are repeated after
//! 100 ms, 200 ms, … up to a second (never less often than the period). A container still isn't ready before its first
//! success, thresholds still count periods (a failure between two periods isn't counted), and from the first success
//! on the period alone decides. Liveness probes follow the period always.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use rand::RngExt;

use crate::clock::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Readiness, Kind::Liveness];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        })
    }
}

/// A probe's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: u32,
    pub failures: u32,
}

impl Rules {
    /// Missing ones get the API's defaults: timeout 1 s, period 10 s, one success, three failures.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u32| {
            let value = value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
            Duration::from_secs(value.into())
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Rules {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// What the results so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No threshold reached yet.
    Pending,
    Passed,
    Failed,
}

/// The results of one probe of one run of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracker {
    kind: Kind,
    next: Moment,
    verdict: Verdict,
    streak: u32,
    streak_good: bool,
    ever_good: bool,
    pace: Duration,
    counted: Option<Moment>,
}

const FIRST_PACE: Duration = Duration::from_millis(100);
const SLOWEST_PACE: Duration = Duration::from_secs(1);

impl Tracker {
    /// For a container that runs since `started`.
    pub fn new(kind: Kind, rules: &Rules, started: Moment) -> Self {
        Tracker {
            kind,
            next: started.plus(rules.initial_delay),
            verdict: Verdict::Pending,
            streak: 0,
            streak_good: false,
            ever_good: false,
            pace: FIRST_PACE,
            counted: None,
        }
    }

    /// For a container that an earlier agent had seen pass: it stays so until the probe says otherwise. Spread over the
    /// period, so that an agent's restart doesn't probe everything at once.
    pub fn adopted(kind: Kind, rules: &Rules, now: Moment) -> Self {
        let spread = rules.period.mul_f64(rand::rng().random_range(0.0..1.0));
        let mut tracker = Tracker::new(kind, rules, now);
        (tracker.verdict, tracker.ever_good, tracker.next) = (Verdict::Passed, true, now.plus(spread));
        tracker
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When to probe next.
    pub fn next(&self) -> Moment {
        self.next
    }

    /// Counts a result. Says whether it was a failure worth telling (one that counted).
    pub fn record(&mut self, good: bool, rules: &Rules, now: Moment) -> bool {
        let eager = self.kind != Kind::Liveness && !self.ever_good;
        if good {
            self.extend(true);
            self.ever_good = true;
            self.next = now.plus(rules.period);
            if self.streak >= rules.successes {
                self.verdict = Verdict::Passed;
            }
            return false;
        }
        let counts = !eager || self.period_has_passed(rules, now);
        if counts {
            self.extend(false);
            self.counted = Some(now);
            if self.streak >= rules.failures {
                self.verdict = Verdict::Failed;
            }
        } else if self.counted.is_none() {
            self.counted = Some(now);
        }
        self.next = now.plus(if eager { self.pace.min(rules.period) } else { rules.period });
        self.pace = (self.pace * 2).min(SLOWEST_PACE);
        counts
    }

    /// A probe that could not be made says nothing; the next one comes a period later.
    pub fn skip(&mut self, rules: &Rules, now: Moment) {
        self.next = now.plus(rules.period);
    }

    fn period_has_passed(&self, rules: &Rules, now: Moment) -> bool {
        self.counted.is_some_and(|counted| now.since(counted) >= rules.period)
    }

    fn extend(&mut self, good: bool) {
        self.streak = if self.streak_good == good { self.streak.saturating_add(1) } else { 1 };
        self.streak_good = good;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(period: u64, successes: u32, failures: u32) -> Rules {
        Rules {
            initial_delay: Duration::from_secs(2),
            period: Duration::from_secs(period),
            timeout: Duration::from_secs(1),
            successes,
            failures,
        }
    }

    fn at(millis: i64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn missing_numbers_get_the_defaults() {
        let rules = Rules::of(&Probe::default());
        assert_eq!(rules.period, Duration::from_secs(10));
        assert_eq!(rules.timeout, Duration::from_secs(1));
        assert_eq!((rules.successes, rules.failures, rules.initial_delay), (1, 3, Duration::ZERO));
    }

    #[test]
    fn readiness_is_asked_quickly_until_the_first_success_and_by_the_period_after() {
        let rules = rules(10, 1, 3);
        let mut tracker = Tracker::new(Kind::Readiness, &rules, at(0));
        assert_eq!(tracker.next(), at(2000));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let now = tracker.next();
            tracker.record(false, &rules, now);
            pauses.push(tracker.next().since(now).as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(tracker.verdict(), Verdict::Pending);
        let now = tracker.next();
        tracker.record(true, &rules, now);
        assert_eq!((tracker.verdict(), tracker.next()), (Verdict::Passed, now.plus(rules.period)));
        for left in [2, 1, 0] {
            assert_eq!(tracker.verdict(), Verdict::Passed, "{left} failures left");
            let now = tracker.next();
            assert!(tracker.record(false, &rules, now));
            assert_eq!(tracker.next(), now.plus(rules.period));
        }
        assert_eq!(tracker.verdict(), Verdict::Failed);
    }

    #[test]
    fn a_success_threshold_counts_periods() {
        let rules = rules(5, 2, 3);
        let mut tracker = Tracker::new(Kind::Readiness, &rules, at(0));
        tracker.record(true, &rules, at(2000));
        assert_eq!((tracker.verdict(), tracker.next()), (Verdict::Pending, at(7000)));
        tracker.record(true, &rules, at(7000));
        assert_eq!(tracker.verdict(), Verdict::Passed);
    }

    #[test]
    fn eager_startup_failures_count_once_per_period() {
        let rules = rules(2, 1, 2);
        let mut tracker = Tracker::new(Kind::Startup, &rules, at(0));
        let mut now = tracker.next();
        let mut counted = Vec::new();
        while tracker.verdict() == Verdict::Pending {
            if tracker.record(false, &rules, now) {
                counted.push(now.millis());
            }
            now = tracker.next();
        }
        assert_eq!(counted.len(), 2);
        assert!(counted[0] >= 4000 && counted[1] - counted[0] >= 2000, "{counted:?}");
    }

    #[test]
    fn liveness_fails_after_its_threshold_in_periods_and_a_success_resets_the_count() {
        let rules = rules(1, 1, 2);
        let mut tracker = Tracker::new(Kind::Liveness, &rules, at(0));
        tracker.record(false, &rules, at(2000));
        tracker.record(true, &rules, at(3000));
        tracker.record(false, &rules, at(4000));
        assert_eq!(tracker.verdict(), Verdict::Passed);
        tracker.record(false, &rules, at(5000));
        assert_eq!(tracker.verdict(), Verdict::Failed);
    }

    #[test]
    fn an_adopted_container_stays_ready_until_its_probe_fails() {
        let rules = rules(1, 1, 1);
        let mut tracker = Tracker::adopted(Kind::Readiness, &rules, at(0));
        assert_eq!(tracker.verdict(), Verdict::Passed);
        assert!(tracker.next() <= at(1000));
        assert!(tracker.record(false, &rules, at(500)));
        assert_eq!(tracker.verdict(), Verdict::Failed);
    }
}
