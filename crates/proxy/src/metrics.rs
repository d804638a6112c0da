//! What a proxy counts: kube-proxy's metrics under their names and with their meaning, and a few of its own. Anybody who
//! does something counts it here; `text` prints it all as Prometheus reads it. Not responsible for serving it.

mod families;
pub(crate) mod process;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use families::*;

/// One metric with all its label values.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// Upper bounds in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// 1 ms and on, doubling, 15 of them.
    Sync,
    /// 5 ms to a minute.
    Requests,
    /// 0.25 s to 5 min, as the scalability SLO on network programming has them.
    Programming,
}

/// Clones count together.
#[derive(Clone, Default)]
pub struct Metrics {
    values: Arc<Mutex<BTreeMap<Key, Value>>>,
}

/// A family's name, and the values of its labels.
type Key = (&'static str, Vec<String>);

#[derive(Clone)]
enum Value {
    Number(f64),
    Histogram { counts: Vec<u64>, sum: f64, count: u64 },
}

impl Buckets {
    pub fn bounds(self) -> Vec<f64> {
        match self {
            Buckets::Sync => (0..15_u32).map(|n| 0.001 * f64::from(1_u32 << n)).collect(),
            Buckets::Requests => vec![0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0],
            Buckets::Programming => {
                let short = [0.25, 0.5].into_iter().chain((1..60).map(f64::from));
                let long = (60..120).step_by(5).chain((120..=300).step_by(30)).map(f64::from);
                short.chain(long).collect()
            }
        }
    }
}

impl Value {
    fn add(&mut self, more: Value) {
        match (self, more) {
            (Value::Number(number), Value::Number(more)) => *number += more,
            (
                Value::Histogram { counts, sum, count },
                Value::Histogram { counts: more, sum: more_sum, count: more_count },
            ) => {
                counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
                *sum += more_sum;
                *count += more_count;
            }
            _ => {}
        }
    }
}

impl Metrics {
    pub fn increment(&self, family: &Family, labels: &[&str]) {
        self.add(family, labels, 1.0);
    }

    pub fn add(&self, family: &Family, labels: &[&str], more: f64) {
        if let Value::Number(number) = self.lock().entry(key(family, labels)).or_insert(Value::Number(0.0)) {
            *number += more;
        }
    }

    pub fn set(&self, family: &Family, labels: &[&str], value: f64) {
        self.lock().insert(key(family, labels), Value::Number(value));
    }

    /// Forgets what a family has with any labels.
    pub fn clear(&self, family: &Family) {
        self.lock().retain(|(name, _), _| *name != family.name);
    }

    /// Sets what a family has with labels that begin like this; whatever else it had with such is forgotten.
    pub fn replace<'a>(&self, family: &Family, first: &[&str], values: impl IntoIterator<Item = (Vec<&'a str>, f64)>) {
        let mut all = self.lock();
        all.retain(|(name, labels), _| {
            let begins = labels.iter().zip(first).all(|(label, first)| label == first);
            *name != family.name || !begins
        });
        all.extend(
            values.into_iter().map(|(rest, value)| (key(family, &[first, &rest].concat()), Value::Number(value))),
        );
    }

    /// Adds another's counters and histograms.
    pub(crate) fn add_counts(&self, other: &Metrics) {
        let theirs = other.lock().iter().map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>();
        let mut all = self.lock();
        for (key, value) in theirs.into_iter().filter(|((name, _), _)| kind(name) != Some(Kind::Gauge)) {
            match all.entry(key) {
                Entry::Vacant(vacant) => drop(vacant.insert(value)),
                Entry::Occupied(mut occupied) => occupied.get_mut().add(value),
            }
        }
    }

    /// Has another's gauges of these families, and no others.
    pub(crate) fn replace_gauges(&self, families: &[&Family], other: &Metrics) {
        let is_one = |name: &str| families.iter().any(|family| family.name == name);
        let theirs = other
            .lock()
            .iter()
            .filter(|((name, _), _)| is_one(name))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Vec<_>>();
        let mut all = self.lock();
        all.retain(|(name, _), _| !is_one(name));
        all.extend(theirs);
    }

    /// Sets a gauge to the time it is.
    pub fn set_now(&self, family: &Family, labels: &[&str]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.set(family, labels, now.as_secs_f64());
    }

    pub fn observe(&self, family: &Family, labels: &[&str], took: Duration) {
        let Kind::Histogram(buckets) = family.kind else { return };
        let bounds = buckets.bounds();
        let seconds = took.as_secs_f64();
        let mut values = self.lock();
        let empty = || Value::Histogram { counts: vec![0; bounds.len()], sum: 0.0, count: 0 };
        if let Value::Histogram { counts, sum, count } = values.entry(key(family, labels)).or_insert_with(empty) {
            let within = bounds.iter().position(|bound| seconds <= *bound);
            if let Some(bucket) = within.and_then(|at| counts.get_mut(at)) {
                *bucket += 1;
            }
            *sum += seconds;
            *count += 1;
        }
    }

    /// In Prometheus' text format. A family without labels is there from the beginning, others with their first value.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let values = self.lock();
        let mut families: Vec<_> = ALL.iter().collect();
        families.sort_by_key(|family| family.name);
        for family in families {
            let of_family =
                values.range((family.name, Vec::<String>::new())..).take_while(|((name, _), _)| *name == family.name);
            let mut samples = String::new();
            for ((_, labels), value) in of_family {
                write_value(&mut samples, family, labels, value);
            }
            if samples.is_empty() && !matches!(family.kind, Kind::Histogram(_)) {
                // So that an alert finds a failure that has not happened.
                let zeros: &[&str] = match (family.labels, family.kind) {
                    ([], _) => &[""],
                    (["ip_family"], Kind::Counter) => &["{ip_family=\"IPv4\"}", "{ip_family=\"IPv6\"}"],
                    _ => &[],
                };
                for labels in zeros {
                    let _ = writeln!(samples, "{}{labels} 0", family.name);
                }
            }
            if samples.is_empty() {
                continue;
            }
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let _ = write!(text, "# HELP {0} {1}\n# TYPE {0} {kind}\n{samples}", family.name, family.help);
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Value>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind(name: &str) -> Option<Kind> {
    ALL.iter().find(|family| family.name == name).map(|family| family.kind)
}

fn key(family: &Family, labels: &[&str]) -> Key {
    debug_assert_eq!(family.labels.len(), labels.len(), "{} has other labels", family.name);
    (family.name, labels.iter().map(|label| (*label).to_owned()).collect())
}

fn write_value(text: &mut String, family: &Family, labels: &[String], value: &Value) {
    let name = family.name;
    match value {
        Value::Number(number) => {
            let _ = writeln!(text, "{name}{} {number}", labelled(family, labels, None));
        }
        Value::Histogram { counts, sum, count } => {
            let bounds = match family.kind {
                Kind::Histogram(buckets) => buckets.bounds(),
                Kind::Counter | Kind::Gauge => Vec::new(),
            };
            let mut below = 0;
            for (bound, bucket) in bounds.iter().zip(counts) {
                below += bucket;
                let _ = writeln!(text, "{name}_bucket{} {below}", labelled(family, labels, Some(&bound.to_string())));
            }
            let _ = writeln!(text, "{name}_bucket{} {count}", labelled(family, labels, Some("+Inf")));
            let plain = labelled(family, labels, None);
            let _ = write!(text, "{name}_sum{plain} {sum}\n{name}_count{plain} {count}\n");
        }
    }
}

fn labelled(family: &Family, values: &[String], bound: Option<&str>) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let own = family.labels.iter().copied().zip(values.iter().map(String::as_str));
    let pairs: Vec<_> = own.chain(bound.map(|bound| ("le", bound))).collect();
    if pairs.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", shown.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_printed_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        metrics.increment(&HEALTHZ, &["200"]);
        metrics.add(&HEALTHZ, &["503"], 2.0);
        metrics.observe(&SYNC_DURATION, &["IPv4"], Duration::from_micros(1500));
        metrics.observe(&SYNC_DURATION, &["IPv4"], Duration::from_secs(100));
        let text = metrics.text();
        let healthz = "# HELP kubeproxy_proxy_healthz_total [ALPHA] Cumulative proxy healthz HTTP status\n\
                       # TYPE kubeproxy_proxy_healthz_total counter\n\
                       kubeproxy_proxy_healthz_total{code=\"200\"} 1\nkubeproxy_proxy_healthz_total{code=\"503\"} 2\n";
        assert!(text.contains(healthz), "{text}");
        let bucket = |bound: &str, count: u32| {
            format!("kubeproxy_sync_proxy_rules_duration_seconds_bucket{{ip_family=\"IPv4\",le=\"{bound}\"}} {count}\n")
        };
        for (bound, count) in [("0.001", 0), ("0.002", 1), ("16.384", 1), ("+Inf", 2)] {
            assert!(text.contains(&bucket(bound, count)), "{bound}: {text}");
        }
        assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2\n"));
        assert!(text.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 0\n"), "{text}");
    }

    #[test]
    fn what_was_counted_apart_is_added_and_a_modes_gauges_give_way() {
        let (all, apart) = (Metrics::default(), Metrics::default());
        for (metrics, mode) in [(&all, "iptables"), (&apart, "nftables")] {
            metrics.increment(&SYNC_FAILURES, &[mode, "IPv4"]);
            metrics.increment(&HEALTHZ, &["200"]);
            metrics.observe(&SYNC_DURATION, &["IPv4"], Duration::from_micros(1500));
            metrics.set(&OBJECTS, &[mode, "IPv4", "t", "chains"], 2.0);
        }
        all.set(&IPTABLES_RULES, &["IPv4", "nat"], 7.0);
        all.set(&RELOAD_OK, &[], 1.0);
        all.add_counts(&apart);
        all.replace_gauges(OF_A_MODE, &apart);
        let text = all.text();
        for line in [
            "portolan_proxy_sync_failures_total{mode=\"iptables\",ip_family=\"IPv4\"} 1\n",
            "portolan_proxy_sync_failures_total{mode=\"nftables\",ip_family=\"IPv4\"} 1\n",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 2\n",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2\n",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"} 2\n",
            "portolan_proxy_config_last_reload_successful 1\n",
            "portolan_proxy_objects{mode=\"nftables\",ip_family=\"IPv4\",table=\"t\",kind=\"chains\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(
            !text.contains("portolan_proxy_objects{mode=\"iptables\"") && !text.contains("iptables_total{"),
            "{text}"
        );
        all.replace(&OBJECTS, &["nftables", "IPv4"], [(vec!["t", "rules"], 3.0)]);
        assert!(!all.text().contains("kind=\"chains\""), "{}", all.text());
    }

    #[test]
    fn names_are_there_once_and_buckets_rise() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for buckets in [Buckets::Sync, Buckets::Requests, Buckets::Programming] {
            assert!(buckets.bounds().is_sorted_by(|a, b| a < b));
        }
        assert_eq!(Buckets::Programming.bounds().len(), 2 + 59 + 12 + 7);
    }
}
