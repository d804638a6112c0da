//! What of control groups libcontainer leaves to us: whether a group met the out-of-memory killer, and removing the
//! groups above a container's. Version 1, hybrid and version 2.
//!
//! Not responsible for making groups or setting limits.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const ROOT: &str = "/sys/fs/cgroup";
/// A group stays busy for a moment after its last process was reaped.
const RETRIES: u32 = 50;
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// The directories below which a path like `/portolan/…` may exist: one in version 2, one per controller before.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if is_unified() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// A hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its directory's.
    pub name: String,
    /// False of one that only names groups, as `name=systemd` does.
    pub controllers: bool,
}

/// This machine's; none where there is version 2 alone.
pub fn version_1() -> Vec<Hierarchy> {
    fs::read_to_string("/proc/self/mountinfo").map(|mounts| mounted(&mounts)).unwrap_or_default()
}

fn mounted(mounts: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = Path::new(place.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        if kind.next() != Some("cgroup") || point.parent() != Some(Path::new(ROOT)) {
            return None;
        }
        let named = kind.nth(1)?.split(',').any(|option| option.starts_with("name="));
        Some(Hierarchy { name: point.file_name()?.to_str()?.to_owned(), controllers: !named })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// Whether this machine has version 2 alone.
pub fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// Kills every process of this group, and those they start meanwhile.
pub(crate) fn kill(group: &Path) {
    let relative = group.strip_prefix("/").unwrap_or(group);
    for hierarchy in hierarchies() {
        let directory = hierarchy.join(relative);
        // Version 2 since Linux 5.14.
        if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        for _ in 0..RETRIES {
            let Ok(members) = fs::read_to_string(directory.join("cgroup.procs")) else { break };
            let members: Vec<_> = members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
            if members.is_empty() {
                break;
            }
            for member in members {
                let _ = kill_process(member, Signal::KILL);
            }
            sleep(RETRY_AFTER);
        }
    }
}

/// Removes this group and all below it, in every hierarchy. Processes must be gone from them.
pub fn remove_tree(group: &Path) -> io::Result<()> {
    let relative = group.strip_prefix("/").unwrap_or(group);
    if relative.as_os_str().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root group can't be removed"));
    }
    for hierarchy in hierarchies() {
        remove_below(&hierarchy.join(relative))?;
    }
    Ok(())
}

/// Removes `group` where it is empty, leaving others alone.
pub fn remove_if_empty(group: &Path) {
    let relative = group.strip_prefix("/").unwrap_or(group);
    if relative.as_os_str().is_empty() {
        return;
    }
    for hierarchy in hierarchies() {
        // Busy or not there: somebody else's or nobody's.
        let _ = fs::remove_dir(hierarchy.join(relative));
    }
}

/// The names of the groups right below `group`, in any hierarchy.
pub fn children(group: &Path) -> Vec<String> {
    let relative = group.strip_prefix("/").unwrap_or(group);
    let mut names: Vec<String> = hierarchies()
        .iter()
        .filter_map(|hierarchy| fs::read_dir(hierarchy.join(relative)).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// As kubelet has it on version 2: the out-of-memory killer ends a container whole, never half of it, and a limit on
/// memory is none that swap gets around. Before version 2 there is no such thing.
pub(crate) fn bound_memory(group: &Path) -> io::Result<()> {
    if !is_unified() {
        return Ok(());
    }
    let group = Path::new(ROOT).join(group.strip_prefix("/").unwrap_or(group));
    for (file, value) in [("memory.oom.group", "1"), ("memory.swap.max", "0")] {
        let opened = OpenOptions::new().write(true).open(group.join(file));
        match opened.and_then(|mut file| file.write_all(value.as_bytes())) {
            // A machine without the memory controller, or without swap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Whether the out-of-memory killer ended something in this group.
pub(crate) fn oom_killed(group: &Path) -> bool {
    let relative = group.strip_prefix("/").unwrap_or(group);
    let root = Path::new(ROOT);
    [root.join(relative).join("memory.events"), root.join("memory").join(relative).join("memory.oom_control")]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|text| text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0")))
}

/// How often this group was refused another process because it has as many as it may.
pub fn refused_forks(group: &Path) -> u64 {
    let relative = group.strip_prefix("/").unwrap_or(group);
    let root = Path::new(ROOT);
    [root.join(relative).join("pids.events"), root.join("pids").join(relative).join("pids.events")]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok()))
        .next()
        .unwrap_or(0)
}

/// Sets the group's part of the processor against its siblings, by version 1's measure (1024 a core).
pub fn set_cpu_shares(group: &Path, shares: u64) -> io::Result<()> {
    let relative = group.strip_prefix("/").unwrap_or(group);
    if is_unified() {
        return fs::write(Path::new(ROOT).join(relative).join("cpu.weight"), cpu_weight(shares).to_string());
    }
    fs::write(Path::new(ROOT).join("cpu").join(relative).join("cpu.shares"), shares.to_string())
}

/// 2 to 262144 shares onto 1 to 10000, as OCI runtimes do.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn remove_below(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    let mut attempt = 0;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempt < RETRIES => {
                attempt += 1;
                sleep(RETRY_AFTER);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hierarchy, cpu_weight, mounted};

    #[test]
    fn hierarchies_with_controllers_are_told_from_those_that_only_name() {
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
";
        let expected = [("systemd", false), ("cpu,cpuacct", true)]
            .map(|(name, controllers)| Hierarchy { name: name.to_owned(), controllers });
        assert_eq!(mounted(mounts), expected);
    }

    #[test]
    fn shares_become_weights_over_the_whole_range() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(cpu_weight), [1, 1, 39, 10_000, 10_000]);
    }
}
