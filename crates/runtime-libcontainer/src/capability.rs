//! Which capabilities a container gets: what its pod asks for, as far as this process may give it.
//!
//! Not responsible for applying them.

use std::fs;
use std::io;

use pod_runtime::{ContainerSpec, RuntimeError};

use crate::failure::io_at;

/// capability(7), by bit.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containerd and CRI-O give a container that asks for nothing.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Whether control groups keep containers from devices they make themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceFilter {
    /// Version 1 has a controller for it.
    Present,
    /// Version 2 wants a BPF program, which our build of libcontainer doesn't load.
    Absent,
}

impl DeviceFilter {
    pub(crate) fn detect() -> Self {
        if shim::cgroup::is_unified() { Self::Absent } else { Self::Present }
    }
}

/// A set of capabilities, by bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CapabilitySet(u64);

impl CapabilitySet {
    /// The most that this process can hand on: granting more would fail (a virtual machine may keep some from root).
    pub(crate) fn bounding() -> Result<Self, RuntimeError> {
        let step = "read this process's capabilities";
        let status = fs::read_to_string("/proc/self/status").map_err(io_at(step))?;
        let bits = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        };
        match (bits("CapBnd:"), bits("CapPrm:")) {
            (Some(bounding), Some(permitted)) => Ok(Self(bounding & permitted)),
            _ => Err(io_at(step)(io::Error::from(io::ErrorKind::InvalidData))),
        }
    }

    fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("ALL") {
            return Some(Self((1 << NAMES.len()) - 1));
        }
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        NAMES.iter().position(|known| known.eq_ignore_ascii_case(bare)).map(|bit| Self(1 << bit))
    }

    fn of(names: &[impl AsRef<str>]) -> Result<Self, RuntimeError> {
        names.iter().try_fold(Self(0), |set, name| {
            let name = name.as_ref();
            let unknown = || RuntimeError::CannotRun(format!("unknown capability {name:?}"));
            Self::named(name).map(|one| Self(set.0 | one.0)).ok_or_else(unknown)
        })
    }

    /// `CAP_…`, by bit.
    pub(crate) fn names(self) -> Vec<String> {
        let set = |bit: &usize| self.0 & (1 << bit) != 0;
        (0..NAMES.len()).filter(set).map(|bit| format!("CAP_{}", NAMES[bit])).collect()
    }

    /// A container's share. As in CRI: what is added wins over dropping `ALL`, what is dropped over adding `ALL`. Without
    /// a device filter, only a privileged one may make devices.
    pub(crate) fn of_container(self, spec: &ContainerSpec, filter: DeviceFilter) -> Result<Self, RuntimeError> {
        if spec.privileged {
            return Ok(self);
        }
        let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
        let single = |names: &[String]| Self::of(&names.iter().filter(|name| !is_all(name)).collect::<Vec<_>>());
        let (added, dropped) = (single(&spec.add_capabilities)?, single(&spec.drop_capabilities)?);
        let start = match (spec.add_capabilities.iter().any(is_all), spec.drop_capabilities.iter().any(is_all)) {
            (true, _) => self,
            (false, true) => Self(0),
            (false, false) => Self::of(&DEFAULT)?,
        };
        let makes_devices = Self::of(&["MKNOD"])?;
        let withheld = match filter {
            DeviceFilter::Present => Self(0),
            DeviceFilter::Absent => makes_devices,
        };
        if added.0 & withheld.0 != 0 {
            tracing::warn!(container = %spec.name, "MKNOD is withheld: on cgroup v2 only a privileged container gets it");
        }
        Ok(Self(((start.0 | added.0) & !dropped.0) & self.0 & !withheld.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let spec = ContainerSpec { add_capabilities: own(add), drop_capabilities: own(drop), ..Default::default() };
        let without_resource = CapabilitySet(CapabilitySet::named("ALL").unwrap().0 & !(1 << 24));
        without_resource.of_container(&spec, DeviceFilter::Present).unwrap().names()
    }

    #[test]
    fn pods_change_the_default_within_what_we_have() {
        assert_eq!(share(&[], &[]).len(), DEFAULT.len());
        assert_eq!(share(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(share(&["ALL"], &["CHOWN"]).len(), NAMES.len() - 2);
        assert!(!share(&["SYS_RESOURCE", "net_admin"], &[]).contains(&"CAP_SYS_RESOURCE".to_owned()));
        assert!(share(&["net_admin"], &["NET_RAW"]).contains(&"CAP_NET_ADMIN".to_owned()));
        let unknown = ContainerSpec { add_capabilities: vec!["FLY".into()], ..Default::default() };
        assert!(matches!(
            CapabilitySet(0).of_container(&unknown, DeviceFilter::Present),
            Err(RuntimeError::CannotRun(_))
        ));
    }

    #[test]
    fn devices_are_made_only_where_groups_filter_them() {
        let names = |privileged: bool, filter: DeviceFilter| {
            let spec = ContainerSpec { privileged, ..Default::default() };
            CapabilitySet::named("ALL").unwrap().of_container(&spec, filter).unwrap().names()
        };
        let mknod = "CAP_MKNOD".to_owned();
        assert!(names(false, DeviceFilter::Present).contains(&mknod));
        assert!(!names(false, DeviceFilter::Absent).contains(&mknod));
        assert!(names(true, DeviceFilter::Absent).contains(&mknod));
    }
}
