//! The processes of a system, to be killed one by one.
//!
//! Not responsible for which, or for what has to come of it.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process and what it was started as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    parent: i32,
    /// `argv[1]`: ours say there what they are.
    role: String,
    /// When it began, in ticks since the machine did: an id may be used again.
    began: u64,
}

impl Process {
    /// A process that is there and not ending: one that ends, a zombie too, has no command line any more.
    pub fn find(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything (proc_pid_stat(5)).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let parent = fields.get(1)?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if command.is_empty() {
            return None;
        }
        let role = command.split(|b| *b == 0).nth(1).unwrap_or_default();
        let role = String::from_utf8_lossy(role).into_owned();
        let began = fields.get(19)?.parse().ok()?;
        Some(Process { pid, parent, role, began })
    }

    pub fn kill(&self) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// Whether it, and not another one of its id, still runs.
    pub fn runs(&self) -> bool {
        Process::find(self.pid).is_some_and(|found| found.began == self.began)
    }

    /// Everything it started, and what that started.
    pub fn descendants(&self) -> Vec<Process> {
        let mut by_parent: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
        let numbers =
            fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        for process in numbers.filter_map(Process::find) {
            by_parent.entry(process.parent).or_default().push(process);
        }
        let mut found = Vec::new();
        let mut parents = vec![self.pid];
        while let Some(parent) = parents.pop() {
            let children = by_parent.remove(&parent).unwrap_or_default();
            parents.extend(children.iter().map(|child| child.pid));
            found.extend(children);
        }
        found
    }

    /// Those of its descendants that were started as something.
    pub fn of_role(&self, role: &str) -> Vec<Process> {
        self.descendants().into_iter().filter(|process| process.role == role).collect()
    }
}
