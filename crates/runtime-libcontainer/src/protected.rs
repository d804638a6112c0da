//! What of the machine's files is hidden from a container that isn't privileged, and what it may only read.

use std::fs;

use shim::cgroup::{self, Hierarchy};

/// As kubelet and containerd have it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const CGROUPS: &str = "/sys/fs/cgroup";
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Paths as a container sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Protected {
    pub(crate) masked: Vec<String>,
    pub(crate) read_only: Vec<String>,
}

impl Protected {
    /// On this machine.
    pub(crate) fn here() -> Self {
        let entries = fs::read_dir(PROCESSORS).into_iter().flatten().flatten();
        let processors: Vec<String> = entries
            .filter(|entry| entry.path().join("thermal_throttle").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        Protected::of(&cgroup::version_1(), &processors)
    }

    /// `processors` are those whose heat can be read.
    ///
    /// Of control groups of version 1 libcontainer mounts every hierarchy to be written, whatever the mount's options say,
    /// and those without controllers from their top, not from the container's group.
    fn of(hierarchies: &[Hierarchy], processors: &[String]) -> Self {
        let (limits, plain): (Vec<_>, Vec<_>) = hierarchies.iter().partition(|hierarchy| hierarchy.controllers);
        let at = |hierarchy: &Hierarchy| format!("{CGROUPS}/{}", hierarchy.name);
        let heat = processors.iter().map(|processor| format!("{PROCESSORS}/{processor}/thermal_throttle"));
        let masked = MASKED.map(str::to_owned).into_iter().chain(heat).chain(plain.into_iter().map(at));
        // The directory first: what is mounted below it comes along, and then has its turn.
        let above = (!hierarchies.is_empty()).then(|| CGROUPS.to_owned());
        let read_only = READ_ONLY.map(str::to_owned).into_iter().chain(above).chain(limits.into_iter().map(at));
        Protected { masked: masked.collect(), read_only: read_only.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_read_and_the_machine_s_groups_not_even_that() {
        let hierarchies = [("memory", true), ("systemd", false)]
            .map(|(name, controllers)| Hierarchy { name: name.to_owned(), controllers });
        let found = Protected::of(&hierarchies, &["cpu0".to_owned()]);
        assert_eq!(found.read_only[READ_ONLY.len()..], ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"]);
        let masked = ["/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/fs/cgroup/systemd"];
        assert_eq!(found.masked[MASKED.len()..], masked);
        assert!(found.masked.iter().any(|path| path == "/sys/devices/virtual/powercap"));
        let unified = Protected::of(&[], &[]);
        assert_eq!((unified.masked.len(), unified.read_only.len()), (MASKED.len(), READ_ONLY.len()));
    }
}
