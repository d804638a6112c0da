//! What the server counts about itself, in the Prometheus text format with upstream's names where there is one.
//!
//! Not responsible for when a request starts or ends.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds in seconds (apiserver endpoints/metrics, requestLatencies).
const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// What a request is counted under.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub verb: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
}

#[derive(Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    sum: f64,
    total: u64,
}

#[derive(Default)]
struct Counted {
    totals: BTreeMap<(Labels, u16), u64>,
    durations: BTreeMap<Labels, Histogram>,
}

/// The server's counters.
#[derive(Default)]
pub struct Metrics {
    counted: Mutex<Counted>,
    in_flight: AtomicI64,
    panics: AtomicI64,
}

impl Metrics {
    pub fn started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn finished(&self, labels: Labels, code: u16, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.totals.entry((labels.clone(), code)).or_default() += 1;
        // How long a watch lasts says nothing about how fast the server is.
        if labels.verb != "watch" {
            let histogram = counted.durations.entry(labels).or_default();
            let seconds = took.as_secs_f64();
            if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
                histogram.counts[bucket] += 1;
            }
            histogram.sum += seconds;
            histogram.total += 1;
        }
    }

    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything as text. The gauges that belong to others are passed in.
    pub fn text(&self, store_revision: i64) -> String {
        let mut out = String::new();
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        head(&mut out, "apiserver_request_total", "counter", "Requests by verb, resource and code.");
        for ((labels, code), count) in &counted.totals {
            line(&mut out, "apiserver_request_total", &format!("{},code=\"{code}\"", labels.text()), count);
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut out, name, "histogram", "Response latency by verb and resource.");
        for (labels, histogram) in &counted.durations {
            let labels = labels.text();
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(histogram.counts) {
                below += count;
                line(&mut out, &format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), &below);
            }
            line(&mut out, &format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), &histogram.total);
            line(&mut out, &format!("{name}_sum"), &labels, &histogram.sum);
            line(&mut out, &format!("{name}_count"), &labels, &histogram.total);
        }
        let gauges = [
            (
                "apiserver_current_inflight_requests",
                "gauge",
                "Requests being served.",
                self.in_flight.load(Ordering::Relaxed),
            ),
            (
                "apiserver_request_panics_total",
                "counter",
                "Handlers that panicked.",
                self.panics.load(Ordering::Relaxed),
            ),
            ("portolan_store_revision", "gauge", "The newest durable revision.", store_revision),
        ];
        for (name, kind, help, value) in gauges {
            head(&mut out, name, kind, help);
            line(&mut out, name, "", &value);
        }
        out
    }
}

impl Labels {
    fn text(&self) -> String {
        let Labels { verb, group, version, resource, subresource } = self;
        let verb = verb.to_ascii_uppercase();
        format!(
            "verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{subresource}\""
        )
    }
}

// Writing to a String can't fail.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: &dyn std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}
