//! A container as the OCI runtime specification describes one (`config.json`). A pure function; every field that
//! matters is set here, since the defaults of others are not what a pod expects.
//!
//! Not responsible for checking that what it names exists.

use std::path::{Path, PathBuf};

use images::ImageConfig;
use pod_runtime::{ContainerSpec, Mount, Resources};
use serde_json::{Value, json};
use shim::record::SourcePart;

use crate::capability::CapabilitySet;
use crate::namespaces::{self, Kind};
use crate::protected::Protected;
use crate::user::User;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything the specification is made from.
pub(crate) struct Parts<'a> {
    pub(crate) container: &'a ContainerSpec,
    pub(crate) image: &'a ImageConfig,
    /// The image's own files to bind, read-only.
    pub(crate) binds: &'a [images::FileBind],
    pub(crate) user: &'a User,
    pub(crate) capabilities: CapabilitySet,
    /// Where the pod's namespaces are pinned, and which it has.
    pub(crate) namespaces: &'a Path,
    pub(crate) kinds: &'a [Kind],
    /// Instead of processes of its own.
    pub(crate) processes_of_node: bool,
    /// The pod's, when it has one of its own.
    pub(crate) hostname: &'a str,
    pub(crate) cgroup: &'a Path,
    pub(crate) protected: Protected,
    /// This process's own: without CAP_SYS_RESOURCE it can only be raised.
    pub(crate) oom_score_adj: i32,
    /// The container's directory, below which its shim binds parts of volumes.
    pub(crate) directory: &'a Path,
}

/// The parts of mounts' sources that the shim binds, each to the place the specification mounts it from.
pub(crate) fn source_parts(container: &ContainerSpec, directory: &Path) -> Vec<SourcePart> {
    let part = |(index, mount): (usize, &Mount)| {
        let inside = mount.inside.clone()?;
        Some(SourcePart { root: mount.source.clone(), inside, at: part_path(directory, index) })
    };
    container.mounts.iter().enumerate().filter_map(part).collect()
}

fn part_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(shim::record::PARTS).join(index.to_string())
}

/// What to execute: as in CRI, a command replaces the image's entrypoint and its arguments.
pub(crate) fn arguments(container: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let (entrypoint, cmd) = match (container.command.is_empty(), container.args.is_empty()) {
        (false, _) => (&container.command, &container.args),
        (true, false) => (&image.entrypoint, &container.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    entrypoint.iter().chain(cmd).cloned().collect()
}

/// The directory the program starts in.
pub(crate) fn working_directory(container: &ContainerSpec, image: &ImageConfig) -> PathBuf {
    let chosen = container.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(&image.working_dir);
    // A relative one, which docker allows, is relative to the root.
    Path::new("/").join(chosen)
}

pub(crate) fn document(parts: &Parts<'_>) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": shim::record::ROOTFS, "readonly": parts.container.read_only_root},
        "process": process(parts),
        "mounts": mounts(parts),
        "linux": linux(parts),
    })
}

fn process(parts: &Parts<'_>) -> Value {
    let names = parts.capabilities.names();
    let mut groups = parts.user.groups.clone();
    groups.extend(parts.container.supplemental_groups.iter().filter(|group| !parts.user.groups.contains(group)));
    let mut process = json!({
        "terminal": parts.container.tty,
        "user": {"uid": parts.user.uid, "gid": parts.user.gid, "additionalGids": groups},
        "args": arguments(parts.container, parts.image),
        "env": environment(parts),
        "cwd": working_directory(parts.container, parts.image),
        // No inheritable ones: a program with file capabilities must not gain more than it has.
        "capabilities": {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []},
        "noNewPrivileges": parts.container.no_new_privileges,
    });
    if let Some(wanted) = parts.container.resources.oom_score_adj {
        process["oomScoreAdj"] = json!(wanted.clamp(parts.oom_score_adj, 1000));
    }
    process
}

/// The image's, then the container's; a later one replaces an earlier one in its place.
fn environment(parts: &Parts<'_>) -> Vec<String> {
    let mut variables: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    if !parts.hostname.is_empty() {
        variables.push(("HOSTNAME".to_owned(), parts.hostname.to_owned()));
    }
    if parts.container.tty {
        variables.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let image = parts.image.env.iter().filter_map(|pair| pair.split_once('='));
    let own = parts.container.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in image.chain(own) {
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn mounts(parts: &Parts<'_>) -> Vec<Value> {
    let privileged = parts.container.privileged;
    let writable = if privileged { "rw" } else { "ro" };
    let system = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        system("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", writable]),
        system("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", writable]),
    ];
    let bind = |source: &Path, target: &Path, read_only: bool| {
        let access = if read_only { "ro" } else { "rw" };
        json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
    };
    let shared = match parts.kinds.contains(&Kind::Ipc) {
        true => namespaces::shared_memory(parts.namespaces),
        false => PathBuf::from("/dev/shm"),
    };
    mounts.push(bind(&shared, Path::new("/dev/shm"), false));
    mounts.extend(parts.binds.iter().map(|file| bind(&file.source, &file.target, true)));
    // Outer directories first, or they would hide what is mounted below them.
    let mut own: Vec<_> = parts.container.mounts.iter().enumerate().collect();
    own.sort_by_key(|(_, mount)| mount.target.components().count());
    mounts.extend(own.into_iter().map(|(index, mount)| match mount.inside {
        Some(_) => bind(&part_path(parts.directory, index), &mount.target, mount.read_only),
        None => bind(&mount.source, &mount.target, mount.read_only),
    }));
    mounts
}

fn linux(parts: &Parts<'_>) -> Value {
    let pinned = parts.kinds.iter().map(|kind| json!({"type": kind.oci(), "path": kind.pin(parts.namespaces)}));
    // On version 2 a container sees its own groups alone, and its mount of them can't change the machine's mount options.
    let groups = shim::cgroup::is_unified().then(|| json!({"type": "cgroup"}));
    let processes = (!parts.processes_of_node).then(|| json!({"type": "pid"}));
    let own = processes.into_iter().chain([json!({"type": "mount"})]);
    let namespaces: Vec<Value> = own.chain(pinned).chain(groups).collect();
    let hidden = !parts.container.privileged;
    let paths = |list: &[String]| if hidden { json!(list) } else { json!([]) };
    json!({
        "namespaces": namespaces,
        "cgroupsPath": parts.cgroup,
        "rootfsPropagation": "private",
        "maskedPaths": paths(&parts.protected.masked),
        "readonlyPaths": paths(&parts.protected.read_only),
        "resources": resources(&parts.container.resources, parts.container.privileged),
    })
}

fn resources(wanted: &Resources, privileged: bool) -> Value {
    let mut resources = json!({
        // The usual devices (null, zero, urandom, …) are allowed by libcontainer in any case.
        "devices": [{"allow": privileged, "access": "rwm"}],
    });
    let mut cpu = serde_json::Map::new();
    let mut set = |name: &str, value: Option<Value>| value.map(|value| cpu.insert(name.to_owned(), value));
    set("shares", wanted.cpu_shares.map(Value::from));
    set("quota", wanted.cpu_quota_us.map(Value::from));
    set("period", wanted.cpu_period_us.map(Value::from));
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    if let Some(limit) = wanted.memory_limit_bytes {
        resources["memory"] = json!({"limit": limit});
    }
    if let Some(limit) = wanted.pids_limit {
        resources["pids"] = json!({"limit": limit});
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document_of(container: &ContainerSpec, image: &ImageConfig) -> Value {
        document(&Parts {
            container,
            image,
            binds: &[],
            user: &User { uid: 1, gid: 2, groups: vec![3] },
            capabilities: CapabilitySet::bounding().unwrap(),
            namespaces: Path::new("/ns/pod"),
            kinds: &[Kind::Net, Kind::Ipc],
            processes_of_node: false,
            hostname: "pod-0",
            cgroup: Path::new("/portolan/c/n/uid/id"),
            protected: Protected { masked: strings(&["/hidden"]), read_only: strings(&["/kept"]) },
            oom_score_adj: 100,
            directory: Path::new("/c/id"),
        })
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_command_replaces_the_entrypoint_and_its_arguments() {
        let image = ImageConfig { entrypoint: strings(&["entry"]), cmd: strings(&["cmd"]), ..Default::default() };
        let with = |command: &[&str], args: &[&str]| {
            arguments(&ContainerSpec { command: strings(command), args: strings(args), ..Default::default() }, &image)
        };
        assert_eq!(with(&[], &[]), ["entry", "cmd"]);
        assert_eq!(with(&[], &["a"]), ["entry", "a"]);
        assert_eq!(with(&["c"], &[]), ["c"]);
        assert_eq!(with(&["c"], &["a"]), ["c", "a"]);
    }

    #[test]
    fn the_privileged_alone_see_and_write_everything() {
        for (privileged, expected) in [(false, [json!(["/hidden"]), json!(["/kept"])]), (true, [json!([]), json!([])])]
        {
            let container = ContainerSpec { privileged, ..Default::default() };
            let linux = &document_of(&container, &ImageConfig::default())["linux"];
            assert_eq!([&linux["maskedPaths"], &linux["readonlyPaths"]], [&expected[0], &expected[1]]);
        }
    }

    #[test]
    fn variables_of_the_container_win() {
        let image = ImageConfig { env: strings(&["PATH=/bin", "A=image", "B=image"]), ..Default::default() };
        let env = [("A", "own"), ("C", "first"), ("C", "last"), ("EQ", "a=b")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let document = document_of(&ContainerSpec { env, ..Default::default() }, &image);
        let expected = ["PATH=/bin", "HOSTNAME=pod-0", "A=own", "B=image", "C=last", "EQ=a=b"];
        assert_eq!(document["process"]["env"], json!(expected));
    }

    #[test]
    fn mounts_go_outside_in_and_the_score_only_up() {
        let mount =
            |target: &str| Mount { source: "/src".into(), inside: None, target: target.into(), read_only: true };
        let container = ContainerSpec {
            mounts: vec![Mount { inside: Some("in".into()), ..mount("/a/b/c") }, mount("/a")],
            resources: Resources {
                oom_score_adj: Some(-997),
                memory_limit_bytes: Some(7),
                pids_limit: Some(9),
                ..Default::default()
            },
            supplemental_groups: vec![3, 9],
            ..Default::default()
        };
        let document = document_of(&container, &ImageConfig::default());
        let targets: Vec<&str> =
            document["mounts"].as_array().unwrap().iter().filter_map(|mount| mount["destination"].as_str()).collect();
        assert_eq!(targets[targets.len() - 2..], ["/a", "/a/b/c"]);
        let part = SourcePart { root: "/src".into(), inside: "in".into(), at: "/c/id/parts/0".into() };
        assert_eq!(document["mounts"].as_array().unwrap().last().unwrap()["source"], "/c/id/parts/0");
        assert_eq!(source_parts(&container, Path::new("/c/id")), [part]);
        assert_eq!(document["linux"]["resources"]["pids"]["limit"], 9);
        assert_eq!(document["process"]["oomScoreAdj"], 100);
        assert_eq!(document["linux"]["resources"]["memory"]["limit"], 7);
        assert_eq!(document["process"]["user"]["additionalGids"], json!([3, 9]));
        assert_eq!(document["linux"]["namespaces"][2], json!({"type": "network", "path": "/ns/pod/net"}));
    }
}
