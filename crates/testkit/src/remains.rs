//! What a system left behind: processes, mounts, cgroups, links, routes, rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netns::NetNs;

use crate::run;

/// A test's own link to a network outside.
pub const UPLINK: &str = "uplink";

/// A line for each thing that is still there of the system on a data directory.
pub fn find(host: &NetNs, data_dir: &Path, cgroup: Option<&str>) -> Vec<String> {
    let mut found = processes(data_dir);
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("our mounts");
    let below = data_dir.to_string_lossy();
    found.extend(mounts.lines().filter(|m| m.contains(&*below)).map(|m| format!("mount {m}")));
    found.extend(cgroup.into_iter().flat_map(cgroups).map(|c| format!("cgroup {}", c.display())));
    found.extend(
        said(host, &["ip", "-oneline", "link"])
            .lines()
            .filter(|l| !l.contains(": lo:") && !l.contains(UPLINK))
            .map(str::to_owned),
    );
    for listing in [
        vec!["ip", "-4", "route", "show", "table", "main"],
        vec!["ip", "-oneline", "-4", "address", "show", "scope", "global"],
        vec!["ip", "-6", "route", "show", "table", "main"],
        vec!["ip", "-oneline", "-6", "address", "show", "scope", "global"],
        vec!["nft", "list", "ruleset"],
    ] {
        found.extend(
            said(host, &listing)
                .lines()
                .filter(|l| !l.contains(UPLINK))
                .map(|line| format!("{}: {line}", listing.join(" "))),
        );
    }
    let run = data_dir.join("run");
    if run.exists() {
        found.push(format!("{} is there", run.display()));
    }
    found
}

/// Those that name the directory in their arguments or environment. (Containers have neither: they are in the cgroup.)
fn processes(data_dir: &Path) -> Vec<String> {
    let mark = data_dir.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let numeric = entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        if !numeric {
            continue;
        }
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        if [&command, &environment].iter().any(|text| text.windows(mark.len()).any(|w| w == mark)) {
            let shown = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("process {}: {shown}", entry.file_name().display()));
        }
    }
    found
}

/// In the root and in each hierarchy below it.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.clone()]).map(|h| h.join(name)).filter(|c| c.exists()).collect()
}

fn said(host: &NetNs, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(host, command).ok()
}
