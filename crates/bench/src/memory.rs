//! What processes keep in memory, and what it is made of, by `/proc/PID/smaps`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::AddAssign;

use anyhow::{Context, Result};

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident: u64,
    /// Each page divided by how many share it: what adds up over processes.
    pub proportional: u64,
    pub heap: u64,
    pub stacks: u64,
    /// The program's code and constants, shared by all its processes.
    pub program: u64,
    /// Written pages of the program: its variables, and constants that hold addresses.
    pub variables: u64,
    pub other: u64,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub name: String,
    pub memory: Memory,
}

/// A process and all its descendants, with what each keeps.
pub fn tree(root: u32) -> Result<Vec<Process>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name is in brackets and may hold anything.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        waiting.extend(children.get(&pid).into_iter().flatten());
        // One may end while we look.
        if let Ok(memory) = of(pid) {
            found.push(Process { name: name(pid), memory });
        }
    }
    Ok(found)
}

/// The words of the command line that say what it is.
fn name(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        line.split(|byte| *byte == 0).take(2).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let program = words.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default().to_owned();
    match words.get(1) {
        Some(command) if !command.is_empty() => format!("{program} {command}"),
        _ => program,
    }
}

pub fn of(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("cannot read a process's memory")?;
    let mut total = Memory::default();
    let mut mapping = String::new();
    let (mut resident, mut anonymous) = (0, 0);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(key), value) = (words.next(), words.next()) else { continue };
        if !key.ends_with(':') {
            // ADDRESSES PERMISSIONS OFFSET DEVICE INODE [PATH]
            mapping = line.split_ascii_whitespace().nth(5).unwrap_or_default().to_owned();
            continue;
        }
        let Some(kib) = value.and_then(|value| value.parse::<u64>().ok()) else { continue };
        match key {
            "Rss:" => resident = kib,
            "Pss:" => total.proportional += kib,
            "Anonymous:" => anonymous = kib,
            // The last of what counts here.
            "Swap:" => total.take(&mapping, resident, anonymous),
            _ => {}
        }
    }
    Ok(total)
}

/// The most a process has ever had resident, in KiB.
pub fn peak(pid: u32) -> Result<u64> {
    field(pid, "VmHWM:")
}

pub fn resident(pid: u32) -> Result<u64> {
    field(pid, "VmRSS:")
}

/// What a process and its descendants have resident now, in KiB; of one that has ended, nothing.
pub fn family_resident(pid: u32) -> u64 {
    let own = resident(pid).unwrap_or(0);
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return own };
    let children: Vec<u32> = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| line.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect();
    own + children.into_iter().map(family_resident).sum::<u64>()
}

fn field(pid: u32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read a process's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a process without memory")?;
    line.split_ascii_whitespace().next().and_then(|kib| kib.parse().ok()).context("a process without memory")
}

/// User and system time so far, that of its ended children too, in milliseconds.
pub fn cpu(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read a process's times")?;
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = rest.split(' ').skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture we run on.
    Ok(ticks as f64 * 10.0)
}

impl Memory {
    fn take(&mut self, mapping: &str, resident: u64, anonymous: u64) {
        self.resident += resident;
        match mapping {
            "[stack]" => self.stacks += resident,
            "" | "[heap]" => self.heap += resident,
            path if path.starts_with('/') && !path.starts_with("/dev") => {
                self.variables += anonymous;
                self.program += resident - anonymous.min(resident);
            }
            _ => self.other += resident,
        }
    }
}

impl AddAssign for Memory {
    fn add_assign(&mut self, other: Memory) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.heap += other.heap;
        self.stacks += other.stacks;
        self.program += other.program;
        self.variables += other.variables;
        self.other += other.other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up() {
        let pid = std::process::id();
        let memory = of(pid).unwrap();
        let parts = memory.heap + memory.stacks + memory.program + memory.variables + memory.other;
        assert_eq!(parts, memory.resident);
        assert!(memory.heap > 0 && memory.program > 0 && memory.proportional <= memory.resident);
        assert_eq!(tree(pid).unwrap()[0].name, name(pid));
    }
}
