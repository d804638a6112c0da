//! The host's forwarding, which `--egress nat` needs and several systems may share: switched on for the first of them
//! and back to what it was after the last. Who uses it and what it was stands in a file outside the data directories,
//! one per network namespace, so that it survives whoever switched it on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use netns::{NetNs, sysctl};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::DataDir;

const DIRECTORY: &str = "/run/portolan";

/// Which IP families a system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// Who needs forwarding, and the parameters as they were before.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Shared {
    users: Vec<PathBuf>,
    /// In the order in which they are to be put back: the general ones first, since writing one of them changes others.
    before: Vec<(String, String)>,
}

/// Switches forwarding on. What it was is on disk before.
pub fn take(host: &NetNs, dir: &DataDir, families: Families) -> Result<()> {
    let (_lock, path) = lock(host)?;
    let mut shared = load(&path)?;
    let wanted = wanted(host, families)?;
    for (name, value) in &wanted {
        let known = shared.before.iter().any(|(known, _)| known == name);
        if !known && sysctl::get(host, name)? != *value {
            shared.before.push((name.clone(), sysctl::get(host, name)?));
            shared.before.extend(overruled(host, name, value)?);
        }
    }
    if !shared.users.iter().any(|user| user == dir.path()) {
        shared.users.push(dir.path().to_owned());
    }
    save(&path, &shared)?;
    for (name, value) in &wanted {
        if sysctl::get(host, name)? != *value {
            sysctl::set(host, name, value)?;
        }
    }
    Ok(())
}

/// Ends a system's need of it; after the last one everything is as it was.
pub fn give_back(host: &NetNs, dir: &DataDir) -> Result<()> {
    let (_lock, path) = lock(host)?;
    let mut shared = load(&path)?;
    shared.users.retain(|user| user != dir.path());
    if !shared.users.is_empty() {
        return save(&path, &shared);
    }
    for (name, value) in &shared.before {
        match sysctl::get(host, name) {
            Ok(now) if now == *value => {}
            Ok(_) => sysctl::set(host, name, value)?,
            // Its link is gone.
            Err(_) => {}
        }
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The parameters and the values they need. A link that forwards ignores router advertisements unless told otherwise
/// (`accept_ra`), and the host would lose its own way out.
fn wanted(host: &NetNs, families: Families) -> Result<Vec<(String, String)>> {
    let mut wanted = Vec::new();
    if families.v6 {
        for link in links(host, "ipv6")? {
            let name = format!("net/ipv6/conf/{link}/accept_ra");
            if sysctl::get(host, &name)? == "1" && link != "all" && link != "default" {
                wanted.push((name, "2".to_owned()));
            }
        }
        wanted.push(("net/ipv6/conf/all/forwarding".to_owned(), "1".to_owned()));
    }
    if families.v4 {
        wanted.push(("net/ipv4/ip_forward".to_owned(), "1".to_owned()));
    }
    Ok(wanted)
}

/// Writing a general parameter writes every link's: those that differ from it now.
fn overruled(host: &NetNs, name: &str, value: &str) -> Result<Vec<(String, String)>> {
    let family = match name {
        "net/ipv4/ip_forward" => "ipv4",
        "net/ipv6/conf/all/forwarding" => "ipv6",
        _ => return Ok(Vec::new()),
    };
    let mut found = Vec::new();
    for link in links(host, family)?.into_iter().filter(|link| link != "all") {
        let name = format!("net/{family}/conf/{link}/forwarding");
        if sysctl::get(host, &name)? == value {
            found.push((name, value.to_owned()));
        }
    }
    Ok(found)
}

fn links(host: &NetNs, family: &str) -> Result<Vec<String>> {
    let path = format!("/proc/sys/net/{family}/conf");
    let listed = host.run(|| -> io::Result<Vec<String>> {
        fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    })?;
    listed.with_context(|| format!("cannot list {path}"))
}

fn lock(host: &NetNs) -> Result<(File, PathBuf)> {
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory).with_context(|| format!("cannot make {DIRECTORY}"))?;
    let lock = File::open(directory).with_context(|| format!("cannot open {DIRECTORY}"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {DIRECTORY}"))?;
    let namespace = host.run(|| fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino()))?;
    let namespace = namespace.context("cannot identify the network namespace")?;
    Ok((lock, directory.join(format!("forwarding-{namespace}.json"))))
}

fn load(path: &Path) -> Result<Shared> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Shared::default()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn save(path: &Path, shared: &Shared) -> Result<()> {
    let draft = path.with_extension("new");
    let text = serde_json::to_vec_pretty(shared).context("cannot encode who needs forwarding")?;
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_puts_everything_back() {
        let host = NetNs::new().unwrap();
        let temporary = std::env::temp_dir().join(format!("portolan-forwarding-{}", std::process::id()));
        let [one, two] = ["one", "two"].map(|name| DataDir::create(&temporary.join(name)).unwrap());
        let names = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/lo/forwarding"];
        sysctl::set(&host, names[0], "0").unwrap();
        sysctl::set(&host, names[2], "1").unwrap();
        let now = || names.map(|name| sysctl::get(&host, name).unwrap());
        let before = now();
        take(&host, &one, Families { v4: true, v6: false }).unwrap();
        assert_eq!(now()[0], "1");
        take(&host, &two, Families { v4: true, v6: true }).unwrap();
        take(&host, &two, Families { v4: true, v6: true }).unwrap();
        assert_eq!(now(), ["1", "1", "1"]);
        give_back(&host, &one).unwrap();
        assert_eq!(now()[0], "1", "the second still needs it");
        give_back(&host, &two).unwrap();
        assert_eq!(now(), before);
        give_back(&host, &two).unwrap();
        let (_lock, file) = lock(&host).unwrap();
        assert!(!file.exists());
        fs::remove_dir_all(&temporary).unwrap();
    }
}
