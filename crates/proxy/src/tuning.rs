//! What a proxy sets in the kernel besides its rules: connection tracking's size and timeouts. A plan, made from what was
//! asked for, and its execution. Not responsible for the rules, nor for what goes with them: `route_localnet` opens the
//! node's loopback to its neighbours (CVE-2020-8558) unless rules are there first that keep them out.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::config::file::Conntrack;

/// Where the kernel has its switches.
pub const PROC_SYS: &str = "/proc/sys";
/// The table's size per bucket: as many entries as this times the buckets still make for short chains.
const ENTRIES_PER_BUCKET: u64 = 4;
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Values to be set, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TuningPlan {
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As sysctl(8) names it, with slashes: `net/netfilter/nf_conntrack_max`.
    pub name: &'static str,
    pub value: u64,
    pub unless: Unless,
}

/// What value already there will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unless {
    Equal,
    /// A limit somebody has set higher is left.
    AtLeast,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}")]
pub struct TuningError {
    pub name: &'static str,
    pub value: u64,
    #[source]
    pub source: Error,
}

impl TuningPlan {
    /// What the configuration asks of connection tracking on a machine with so many processors.
    pub fn of_conntrack(conntrack: &Conntrack, processors: u64) -> TuningPlan {
        let number = |given: Option<i32>| given.and_then(|given| u64::try_from(given).ok()).filter(|given| *given > 0);
        let mut settings = Vec::new();
        // 0 per core leaves the limit alone, whatever the minimum says.
        if let Some(per_core) = number(conntrack.max_per_core) {
            let value = per_core.saturating_mul(processors).max(number(conntrack.min).unwrap_or(0));
            settings.push(Setting { name: "net/netfilter/nf_conntrack_max", value, unless: Unless::AtLeast });
        }
        let timeouts = [
            ("net/netfilter/nf_conntrack_tcp_timeout_established", conntrack.tcp_established_timeout),
            ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout),
            ("net/netfilter/nf_conntrack_udp_timeout", Some(conntrack.udp_timeout)),
            ("net/netfilter/nf_conntrack_udp_timeout_stream", Some(conntrack.udp_stream_timeout)),
        ];
        for (name, timeout) in timeouts {
            let seconds = timeout.and_then(|timeout| u64::try_from(timeout.whole_seconds()).ok());
            if let Some(value) = seconds.filter(|seconds| *seconds > 0) {
                settings.push(Setting { name, value, unless: Unless::Equal });
            }
        }
        if conntrack.tcp_be_liberal {
            let name = "net/netfilter/nf_conntrack_tcp_be_liberal";
            settings.push(Setting { name, value: 1, unless: Unless::Equal });
        }
        TuningPlan { settings }
    }

    /// Sets what differs. What can't be set is returned, and the rest is set all the same: a container's `/proc/sys` may
    /// be read-only, and forwarding is possible without.
    pub fn apply(&self, proc_sys: &Path) -> Vec<TuningError> {
        let failed = |setting: &Setting| {
            let Setting { name, value, .. } = *setting;
            setting.apply(proc_sys).err().map(|source| TuningError { name, value, source })
        };
        let failures = self.settings.iter().filter_map(failed).collect();
        self.grow_hash_table(Path::new(HASH_SIZE));
        failures
    }

    /// More entries need more buckets. Some kernels and all containers don't let that be changed, and it's only speed.
    fn grow_hash_table(&self, path: &Path) {
        let entries = self.settings.iter().find(|setting| setting.name.ends_with("nf_conntrack_max"));
        let Some(buckets) = entries.map(|setting| setting.value / ENTRIES_PER_BUCKET) else { return };
        let now = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if now.is_some_and(|now| now < buckets)
            && let Err(error) = std::fs::write(path, buckets.to_string())
        {
            tracing::debug!(%error, buckets, "connection tracking's hash table stays as large as it is");
        }
    }
}

impl Setting {
    fn apply(&self, proc_sys: &Path) -> Result<(), Error> {
        let path = proc_sys.join(self.name);
        let text = std::fs::read_to_string(&path)?;
        let now: u64 = text.trim().parse().map_err(|e| Error::new(ErrorKind::InvalidData, e))?;
        let will_do = match self.unless {
            Unless::Equal => now == self.value,
            Unless::AtLeast => now >= self.value,
        };
        if will_do {
            return Ok(());
        }
        std::fs::write(&path, self.value.to_string())
    }
}

/// Makes the kernel's memory shortage hit others first (or last).
pub fn set_oom_score(score: i32) -> Result<(), Error> {
    std::fs::write(PathBuf::from("/proc/self/oom_score_adj"), score.to_string())
}

/// As sysctl(8) would be told.
impl fmt::Display for TuningPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in &self.settings {
            let least = if setting.unless == Unless::AtLeast { "  # or more" } else { "" };
            writeln!(f, "{} = {}{least}", setting.name.replace('/', "."), setting.value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::duration::GoDuration;
    use crate::config::file::KubeProxyConfiguration;

    fn plan(change: impl FnOnce(&mut Conntrack), processors: u64) -> String {
        let mut conntrack = KubeProxyConfiguration::with_defaults().conntrack;
        change(&mut conntrack);
        TuningPlan::of_conntrack(&conntrack, processors).to_string()
    }

    #[test]
    fn the_limit_grows_with_the_machine() {
        let timeouts = "net.netfilter.nf_conntrack_tcp_timeout_established = 86400\n\
                        net.netfilter.nf_conntrack_tcp_timeout_close_wait = 3600\n";
        assert_eq!(plan(|_| {}, 2), format!("net.netfilter.nf_conntrack_max = 131072  # or more\n{timeouts}"));
        assert_eq!(plan(|_| {}, 8), format!("net.netfilter.nf_conntrack_max = 262144  # or more\n{timeouts}"));
        assert_eq!(plan(|conntrack| conntrack.max_per_core = Some(0), 8), timeouts);
    }

    #[test]
    fn zero_leaves_a_timeout_alone() {
        let all = plan(
            |conntrack| {
                conntrack.max_per_core = None;
                conntrack.tcp_established_timeout = Some(GoDuration::ZERO);
                conntrack.tcp_close_wait_timeout = None;
                conntrack.udp_timeout = GoDuration::seconds(7);
                conntrack.tcp_be_liberal = true;
            },
            1,
        );
        let expected = "net.netfilter.nf_conntrack_udp_timeout = 7\nnet.netfilter.nf_conntrack_tcp_be_liberal = 1\n";
        assert_eq!(all, expected);
    }

    #[test]
    fn only_what_differs_is_written_and_failures_stop_nothing() {
        let dir = std::env::temp_dir().join(format!("portolan-tuning-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("a")).unwrap();
        std::fs::write(dir.join("a/high"), "500\n").unwrap();
        std::fs::write(dir.join("a/other"), "1\n").unwrap();
        let setting = |name, value, unless| Setting { name, value, unless };
        let plan = TuningPlan {
            settings: vec![
                setting("a/missing", 3, Unless::Equal),
                setting("a/high", 400, Unless::AtLeast),
                setting("a/other", 2, Unless::Equal),
            ],
        };
        let failures: Vec<_> = plan.apply(&dir).iter().map(ToString::to_string).collect();
        assert_eq!(failures, ["cannot set a/missing to 3"]);
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((read("a/high").as_str(), read("a/other").as_str()), ("500\n", "2"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
