//! The disk that a whole system lies on is full: the pod that filled it goes, by name; while it stays short no pod comes;
//! everything else is as before.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own, so that it is really full and gone with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};
use testkit::{Kind, Outcome, System, eventually, shell};

const PORTOLAN: &str = env!("CARGO_BIN_EXE_portolan");
/// It counts as short below a tenth of that, and 16 MiB are the node's reserve.
const DISK: &str = "size=256m";
/// What the test leaves free at last: with the reserve given back it's still too little.
const LEFT: u64 = 6 << 20;
const TAINT: &str = "node.kubernetes.io/disk-pressure";

/// Where a disk is mounted. Made before the system whose scratch directory it is, and gone after it.
#[derive(Default)]
struct SmallDisk(Option<PathBuf>);

impl SmallDisk {
    /// Every command of the test's is started by this thread, and sees what it sees.
    fn mount_for(&mut self, system: &System) {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs CAP_SYS_ADMIN: run the tests as root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of our own");
        mount(Some("tmpfs"), system.scratch(), Some("tmpfs"), MsFlags::empty(), Some(DISK)).expect("a small disk");
        self.0 = Some(system.scratch().to_owned());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = umount2(path, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(path);
        }
    }
}

/// A pod that runs a script, with an emptyDir without a limit at /v.
fn pod(name: &str, script: &str) -> Value {
    let container = shell::container("m", script, &[json!({"name": "v", "mountPath": "/v"})], json!({}));
    shell::pod(name, &[json!({"name": "v", "emptyDir": {}})], json!({"containers": [container]}))
}

/// Whether the node says what this is, and has the taint or not as it should.
fn says(pressure: &str) -> impl Fn(&Value) -> bool {
    move |node| {
        let conditions = node["status"]["conditions"].as_array();
        let said = conditions.into_iter().flatten().any(|c| c["type"] == "DiskPressure" && c["status"] == pressure);
        let taints = node["spec"]["taints"].as_array();
        let tainted = taints.into_iter().flatten().any(|t| t["key"] == TAINT && t["effect"] == "NoSchedule");
        said && tainted == (pressure == "True")
    }
}

fn event(system: &System, about: &str, reason: &str, text: &str) {
    let wanted = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        event["involvedObject"]["name"] == about && event["reason"] == reason && message.contains(text)
    };
    system.api().until_all(Kind::EVENT, "", &format!("{about}: {reason} {text}"), |events| events.iter().any(wanted));
}

#[test]
fn a_pod_that_fills_the_disk_goes_and_nothing_else_does() {
    let mut disk = SmallDisk::default();
    let mut system = System::new(PORTOLAN);
    disk.mount_for(&system);
    system.start(&[]);
    let server = json!({"name": "m", "image": "portolan.local/testserver:latest", "imagePullPolicy": "IfNotPresent",
        "args": ["netexec"], "ports": [{"containerPort": 8080, "hostPort": 18080}]});
    let api = system.api();
    api.create(
        Kind::POD,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "steady"}, "spec": {"containers": [server]}}),
    );
    let steady = api.until_pod_ready("steady");
    let answers = || {
        eventually("an answer by the node's port", || match system.host().get("172.30.0.11:18080", "/hostname") {
            Outcome::Answered(name) if name == "steady" => Ok(()),
            other => Err(other.to_string()),
        });
    };
    answers();
    system.step("up on a small disk");

    the_hog_goes(&system);
    api.until(Kind::NODE, "node-1", "no longer under disk pressure", says("False"));
    system.step("room again");
    who_comes_meanwhile_waits(&system);

    let after = api.get(Kind::POD, "steady");
    assert_eq!(after["status"]["containerStatuses"], steady["status"]["containerStatuses"], "untouched all the while");
    answers();
    system.down();
}

fn the_hog_goes(system: &System) {
    let api = system.api();
    // A part into its own root, the rest into a volume, until nothing fits any more; then it holds on to it.
    let fill = "dd if=/dev/zero of=/part bs=1M count=64; dd if=/dev/zero of=/v/rest bs=1M; sleep 600";
    api.create(Kind::POD, &pod("hog", fill));
    api.until(Kind::NODE, "node-1", "under disk pressure, and tainted", says("True"));
    system.step("the disk is full, and the node says so");
    let evicted = api.until(Kind::POD, "hog", "evicted", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(evicted["status"]["reason"], "Evicted", "{evicted:#}");
    let said = evicted["status"]["message"].as_str().unwrap_or_default();
    for text in ["low on resource: ephemeral-storage", "Container m was using", "EmptyDir volume v was using"] {
        assert!(said.contains(text), "{said}");
    }
    event(system, "hog", "Evicted", "low on resource");
    event(system, "node-1", "EvictionThresholdMet", "ephemeral-storage");
    event(system, "node-1", "NodeHasDiskPressure", "NodeHasDiskPressure");
    system.step("evicted, by name");
}

/// This time it's no pod that fills the disk, so that it stays short as long as the test wants.
fn who_comes_meanwhile_waits(system: &System) {
    let api = system.api();
    let ballast = system.scratch().join("ballast");
    fill_up(&ballast);
    api.until(Kind::NODE, "node-1", "under disk pressure again", says("True"));
    let later = one_that_waits(system);
    event(system, &later, "FailedScheduling", TAINT);
    // Who names its node asks no scheduler.
    let mut bound = pod("bound", "sleep 600");
    bound["spec"]["nodeName"] = json!("node-1");
    api.create(Kind::POD, &bound);
    let refused = api.until(Kind::POD, "bound", "refused", |pod| pod["status"]["phase"] == "Failed");
    let message = refused["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(refused["status"]["reason"], "Evicted", "{refused:#}");
    assert!(message.contains("The node had condition: [DiskPressure]"), "{message}");
    system.step("who comes to a full disk waits");

    fs::remove_file(&ballast).expect("the test's own file");
    api.until(Kind::NODE, "node-1", "no longer under disk pressure", says("False"));
    api.until_pod_ready(&later);
    event(system, "node-1", "NodeHasNoDiskPressure", "NodeHasNoDiskPressure");
    system.step("room again");
}

/// A pod that the scheduler keeps waiting. Those that it placed before it saw the taint are refused by the node.
fn one_that_waits(system: &System) -> String {
    let api = system.api();
    let tries = (0..20).map(|number| format!("later-{number}"));
    let waits = |name: &String| {
        api.create(Kind::POD, &pod(name, "echo there; sleep 600"));
        let judged = api.until(Kind::POD, name, "placed or not", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            pod["spec"]["nodeName"].is_string() || conditions.into_iter().flatten().any(|c| c["type"] == "PodScheduled")
        });
        judged["spec"]["nodeName"].is_null()
    };
    tries.into_iter().find(waits).expect("the scheduler sees the taint")
}

fn fill_up(ballast: &Path) {
    let disk = statvfs(ballast.parent().expect("a directory")).expect("the disk's state");
    let free = disk.f_bavail * disk.f_frsize;
    let file = File::create(ballast).expect("a file on the small disk");
    fallocate(&file, FallocateFlags::empty(), 0, free.saturating_sub(LEFT)).expect("room for the test's file");
}
