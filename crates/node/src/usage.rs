//! What pods use of the node, looked at now and then: who has written more than it may, or what fills the disk, is
//! evicted; who meets its limit of processes is named.
//!
//! Not responsible for ending an evicted pod (its worker does).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use pod_runtime::{ContainerId, ContainerState, ContainerStatus};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::is_critical;
use crate::agent::Pods;
use crate::pod::plan::EVICTED;
use crate::pod::spec::{self, Member, PodKey};
use crate::pod::{MANAGED_FILES, NodeVerdict, Shared, termination};
use crate::resources;

const PERIOD: Duration = Duration::from_secs(3);
/// The node's disk is short below this part of it (kubelet's nodefs.available<10%), but not while there is this much: a
/// laptop's disk is often nine tenths full. Of its files, kubelet's nodefs.inodesFree<5%.
const SHORT_PART: u64 = 10;
const SHORT_BYTES: u64 = 1 << 30;
const SHORT_FILES: u64 = 20;
/// How long the node says that its disk is short after it was: what replaces an evicted pod would fill it again at once.
/// Kubelet's five minutes are long for somebody who waits.
const PRESSURE_KEPT: Duration = Duration::from_secs(15);
/// Kept for the records of what ends when the disk is full.
const RESERVE: u64 = 16 << 20;
/// Who uses less is not what fills the disk.
const WORTH_EVICTING: u64 = 16 << 20;
/// How long a shortage may last before pods go that use less than what is missing: what fills the disk may be another
/// node's on the same one, and then nothing of this node's helps.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the files of an evicted pod may take to go before the next one is chosen (kubelet waits as long).
const REMOVAL: Duration = Duration::from_secs(30);

/// A pod, by uid, that the node fails.
pub type Finding = (String, NodeVerdict);

/// Looks until stopped. `pressure` is told whether the disk is short.
pub async fn watch(
    shared: Arc<Shared>,
    pods: Pods,
    findings: mpsc::Sender<Finding>,
    pressure: watch::Sender<bool>,
    stop: CancellationToken,
) {
    keep(shared.config.state_dir.join("reserve")).await;
    let last_short = pressure.borrow().then(Instant::now);
    let mut look = Look { shared, told: BTreeSet::new(), short: None, going: None, pressure, last_short };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let known: Vec<Arc<Pod>> = pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = look.at(known) => found,
        };
        for finding in found {
            if findings.send(finding).await.is_err() {
                return;
            }
        }
    }
}

struct Look {
    shared: Arc<Shared>,
    /// Containers whose limit of processes was told of.
    told: BTreeSet<ContainerId>,
    /// Since when the disk has been short.
    short: Option<Instant>,
    /// The pod that was evicted last for that, and when.
    going: Option<(Arc<Pod>, Instant)>,
    pressure: watch::Sender<bool>,
    last_short: Option<Instant>,
}

/// What a pod has on disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Disk {
    /// By container: its root, its log, its last messages.
    containers: BTreeMap<String, u64>,
    volumes: BTreeMap<String, u64>,
    /// Files that all its containers have, such as /etc/hosts.
    shared: u64,
}

impl Disk {
    fn total(&self) -> u64 {
        self.containers.values().chain(self.volumes.values()).sum::<u64>() + self.shared
    }
}

impl Look {
    async fn at(&mut self, pods: Vec<Arc<Pod>>) -> Vec<Finding> {
        let shortage = shortage(self.shared.config.state_dir.clone()).await;
        self.tell(shortage.is_some());
        let pods: Vec<Arc<Pod>> = pods.into_iter().filter(|pod| !spec::is_terminal(pod)).collect();
        if pods.is_empty() && shortage.is_none() {
            self.relax().await;
            return Vec::new();
        }
        let containers = match self.shared.runtime.containers(None).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "cannot list containers to see what they use");
                return Vec::new();
            }
        };
        self.processes(&pods, &containers).await;
        let mut found = Vec::new();
        for pod in pods.iter().filter(|pod| has_limits(pod)) {
            if let Some(message) = exceeded(pod, &self.disk(pod, &containers).await) {
                found.push((PodKey::of(pod).uid, NodeVerdict { reason: EVICTED, message }));
            }
        }
        if found.is_empty() {
            match shortage {
                Some(shortage) => found.extend(self.make_room(&shortage, &pods, &containers).await),
                None => self.relax().await,
            }
        }
        found
    }

    /// The node's condition follows, and with it whether pods are sent here.
    fn tell(&mut self, short: bool) {
        if short {
            self.last_short = Some(Instant::now());
        }
        let pressed = self.last_short.is_some_and(|at| at.elapsed() < PRESSURE_KEPT);
        let changed = self.pressure.send_if_modified(|known| std::mem::replace(known, pressed) != pressed);
        if changed {
            let node = &self.shared.config.node_name;
            let reason = if pressed { "NodeHasDiskPressure" } else { "NodeHasNoDiskPressure" };
            self.shared.events.node(node, false, reason, format!("Node {node} status is now: {reason}"));
        }
    }

    async fn relax(&mut self) {
        self.short = None;
        keep(self.shared.config.state_dir.join("reserve")).await;
    }

    async fn processes(&mut self, pods: &[Arc<Pod>], containers: &[ContainerStatus]) {
        self.told.retain(|id| containers.iter().any(|container| container.id == *id));
        let running = containers.iter().filter(|c| matches!(c.state, ContainerState::Running { .. }));
        for container in running.filter(|container| !self.told.contains(&container.id)).collect::<Vec<_>>() {
            if self.shared.runtime.refused_forks(&container.id).await.unwrap_or(0) == 0 {
                continue;
            }
            self.told.insert(container.id.clone());
            let owner = pods.iter().find(|pod| owns(pod, container));
            let Some((pod, member)) = owner.and_then(|pod| Some((pod, spec::member(pod, &container.name)?))) else {
                continue;
            };
            let message = format!(
                "Container {} has the {} processes and threads it may have at most: more are refused",
                container.name, self.shared.config.pids_limit
            );
            self.shared.events.pod(&PodKey::of(pod), Some(member.field_path()), true, "ProcessLimitReached", message);
        }
    }

    async fn disk(&self, pod: &Pod, containers: &[ContainerStatus]) -> Disk {
        let config = &self.shared.config;
        let key = PodKey::of(pod);
        let mut disk = Disk::default();
        for container in containers.iter().filter(|container| owns(pod, container)) {
            let written = self.shared.runtime.written_bytes(&container.id).await.unwrap_or(0);
            *disk.containers.entry(container.name.clone()).or_default() += written;
        }
        let (logs, volumes, own) = (config.log_dir(&key), config.volumes(&key.uid).disk, config.pod_dir(&key.uid));
        let names: Vec<String> = spec::members(pod).map(|member| member.name().to_owned()).collect();
        let kept: Vec<String> = spec::spec(pod)
            .volumes
            .iter()
            .flatten()
            .filter(|volume| volume.empty_dir.is_some())
            .map(|volume| volume.name.clone())
            .collect();
        let measured = tokio::task::spawn_blocking(move || {
            let sizes = |dir: &Path, names: &[String]| -> Vec<(String, u64)> {
                names.iter().map(|name| (name.clone(), filetree::size(&dir.join(name)))).collect()
            };
            let messages = own.join(termination::DIRECTORY);
            let containers = [sizes(&logs, &names), sizes(&messages, &names)].concat();
            (containers, sizes(&volumes, &kept), filetree::size(&own.join(MANAGED_FILES)))
        });
        if let Ok((containers, volumes, shared)) = measured.await {
            for (name, bytes) in containers {
                *disk.containers.entry(name).or_default() += bytes;
            }
            disk.volumes.extend(volumes);
            disk.shared = shared;
        }
        disk
    }

    /// When the node's disk is short, one pod goes, and the next when that one's files are gone. Of those that use as much
    /// as is missing, if there is one, kubelet's order decides: who uses more than it asked for, then who matters least,
    /// then who uses most above what it asked for.
    async fn make_room(
        &mut self,
        shortage: &Shortage,
        pods: &[Arc<Pod>],
        containers: &[ContainerStatus],
    ) -> Option<Finding> {
        let before = self.short.is_some();
        let since = *self.short.get_or_insert_with(Instant::now);
        let reserve = self.shared.config.state_dir.join("reserve");
        if before {
            // Whoever filled the disk has been told to end by now; without room nothing could be written down of it.
            let _ = tokio::fs::remove_file(reserve).await;
        } else {
            let node = &self.shared.config.node_name;
            let message = format!("Attempting to reclaim ephemeral-storage: {}", shortage.message);
            self.shared.events.node(node, true, "EvictionThresholdMet", message);
        }
        // Who has many files isn't told by bytes.
        let missing = shortage.missing_bytes?;
        if let Some((pod, at)) = &self.going
            && still_going(at.elapsed(), self.disk(pod, containers).await.total())
        {
            return None;
        }
        let worth = worth_evicting(missing, since.elapsed());
        let mut first: Option<(Rank, &Arc<Pod>, Disk)> = None;
        for pod in pods.iter().filter(|pod| !is_critical(pod)) {
            let disk = self.disk(pod, containers).await;
            let rank = rank(pod, disk.total());
            if disk.total() >= worth && first.as_ref().is_none_or(|(greatest, ..)| *greatest < rank) {
                first = Some((rank, pod, disk));
            }
        }
        let (_, pod, disk) = first?;
        self.going = Some((pod.clone(), Instant::now()));
        let mut message = format!("The node was low on resource: ephemeral-storage. {}. ", shortage.message);
        for (name, bytes) in disk.containers {
            let asked = spec::member(pod, &name).map_or("0", |member| resources::disk_request(member.container).1);
            message.push_str(&format!("Container {name} was using {}Ki, request is {asked}. ", bytes / 1024));
        }
        for (name, bytes) in disk.volumes {
            message.push_str(&format!("EmptyDir volume {name} was using {}Ki. ", bytes / 1024));
        }
        Some((PodKey::of(pod).uid, NodeVerdict { reason: EVICTED, message }))
    }
}

/// Whether the files of a pod that was evicted so long ago are still to go.
fn still_going(ago: Duration, left: u64) -> bool {
    ago < REMOVAL && left >= WORTH_EVICTING
}

/// What a pod has to use to be chosen, when so many bytes have been missing for so long.
fn worth_evicting(missing: u64, lasted: Duration) -> u64 {
    if lasted < PATIENCE { missing.max(WORTH_EVICTING) } else { WORTH_EVICTING }
}

/// Who goes first when the disk is short; the greatest does.
type Rank = (bool, Reverse<i32>, u64);

fn rank(pod: &Pod, used: u64) -> Rank {
    let asked = spec::members(pod).map(|member| resources::disk_request(member.container).0);
    let above = used.saturating_sub(asked.fold(0, u64::saturating_add));
    (above > 0, Reverse(spec::spec(pod).priority.unwrap_or(0)), above)
}

fn owns(pod: &Pod, container: &ContainerStatus) -> bool {
    let uid = container.sandbox.0.rsplit_once('-').map(|(uid, _)| uid);
    uid.is_some() && uid == pod.metadata.uid.as_deref()
}

fn has_limits(pod: &Pod) -> bool {
    let limited = |member: Member<'_>| resources::disk_limit(member.container).is_some();
    !resources::volume_limits(pod).is_empty() || spec::members(pod).any(limited)
}

/// What kubelet says of the limit that is exceeded first: a volume's, the pod's, a container's.
fn exceeded(pod: &Pod, disk: &Disk) -> Option<String> {
    for (name, limit, text) in resources::volume_limits(pod) {
        if disk.volumes.get(name).is_some_and(|used| *used > limit) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {text:?}. "));
        }
    }
    let limits: Vec<_> =
        spec::members(pod).filter_map(|m| Some((m.name(), resources::disk_limit(m.container)?))).collect();
    let together: u64 = limits.iter().map(|(_, (bytes, _))| *bytes).sum();
    // Where each has a limit, what belongs to none of them counts too.
    if !limits.is_empty() && spec::members(pod).count() == limits.len() && disk.total() > together {
        let text = if let [(_, (_, text))] = limits[..] { text.to_owned() } else { together.to_string() };
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "));
    }
    limits.into_iter().find_map(|(name, (limit, text))| {
        let used = disk.containers.get(name).copied().unwrap_or(0);
        (used > limit).then(|| format!("Container {name} exceeded its local ephemeral storage limit {text:?}. "))
    })
}

/// Takes the room while there is some.
async fn keep(reserve: PathBuf) {
    let taken = tokio::task::spawn_blocking(move || {
        if std::fs::metadata(&reserve).is_ok_and(|found| found.len() == RESERVE) {
            return Ok(());
        }
        let file = std::fs::File::create(&reserve)?;
        let taken = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE);
        if taken.is_err() {
            // On a full disk, or a file system that can't: an empty file is no use.
            std::fs::remove_file(&reserve)?;
        }
        taken.map_err(std::io::Error::from)
    });
    if let Ok(Err(error)) = taken.await {
        tracing::debug!(%error, "no room is kept for a full disk");
    }
}

/// A disk that is short.
#[derive(Debug, PartialEq, Eq)]
struct Shortage {
    /// In kubelet's words.
    message: String,
    /// Below what counts as enough; none when it's files that are short.
    missing_bytes: Option<u64>,
}

/// Whether the disk of this directory is short.
pub async fn is_short(state_dir: PathBuf) -> bool {
    shortage(state_dir).await.is_some()
}

async fn shortage(state_dir: PathBuf) -> Option<Shortage> {
    let stat = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&state_dir)).await.ok()?.ok()?;
    short_of(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize, stat.f_files, stat.f_favail)
}

fn short_of(size: u64, free: u64, files: u64, free_files: u64) -> Option<Shortage> {
    let threshold = (size / SHORT_PART).min(SHORT_BYTES);
    if free < threshold {
        let message = format!("Threshold quantity: {}Ki, available: {}Ki", threshold / 1024, free / 1024);
        return Some(Shortage { message, missing_bytes: Some(threshold - free) });
    }
    // Some file systems don't count.
    let threshold = files / SHORT_FILES;
    let message = || format!("Threshold quantity: {threshold} inodes, available: {free_files}");
    (free_files < threshold).then(|| Shortage { message: message(), missing_bytes: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_limit_that_is_exceeded_is_named() {
        let limits = json!({"limits": {"ephemeral-storage": "2Mi"}});
        let pod = |containers| {
            let volumes = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
            spec::testing::pod(json!({"volumes": volumes, "containers": containers}))
        };
        let disk = |container: u64, volume: u64| Disk {
            containers: [("m".to_owned(), container << 20)].into(),
            volumes: [("v".to_owned(), volume << 20)].into(),
            shared: 0,
        };
        let one = pod(json!([{"name": "m", "resources": limits}]));
        assert_eq!(exceeded(&one, &disk(1, 1)), None);
        let said = |pod: &Pod, disk: &Disk| exceeded(pod, disk).unwrap();
        assert_eq!(said(&one, &disk(1, 2)), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
        assert_eq!(said(&one, &disk(3, 0)), whole);
        let hosts = Disk { shared: 2 << 20, ..disk(1, 0) };
        assert_eq!(said(&one, &hosts), whole);
        let both = pod(json!([{"name": "m", "resources": limits}, {"name": "n", "resources": limits}]));
        assert_eq!(exceeded(&both, &Disk { shared: 2 << 20, ..disk(2, 0) }), None);
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 4194304. ";
        assert_eq!(said(&both, &Disk { shared: 3 << 20, ..disk(2, 0) }), whole);
        let two = pod(json!([{"name": "m", "resources": limits}, {"name": "n"}]));
        assert_eq!(said(&two, &disk(3, 0)), "Container m exceeded its local ephemeral storage limit \"2Mi\". ");
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first_then_who_matters_least_then_who_uses_most() {
        let pod = |asked: &str, priority: i32| {
            let resources = json!({"requests": {"ephemeral-storage": asked}});
            spec::testing::pod(json!({"priority": priority, "containers": [{"name": "m", "resources": resources}]}))
        };
        let (modest, important) = (pod("1Gi", 0), pod("0", 1000));
        assert!(rank(&modest, 1 << 29) < rank(&important, 1), "it asked for what it uses");
        assert!(rank(&pod("0", 0), 1) > rank(&important, 1 << 30), "it matters less");
        assert!(rank(&pod("1Mi", 0), 3 << 20) > rank(&pod("0", 0), 1 << 20), "it is further above");
    }

    #[test]
    fn who_does_not_fill_the_disk_is_spared_at_first_and_nobody_follows_before_the_last_ones_files_are_gone() {
        let (gib, soon, late) = (1 << 30, Duration::from_secs(3), Duration::from_secs(31));
        assert_eq!(worth_evicting(gib, soon), gib, "what is missing may be another node's doing");
        assert_eq!(worth_evicting(1, soon), WORTH_EVICTING);
        assert_eq!(worth_evicting(gib, late), WORTH_EVICTING);
        assert!(still_going(soon, gib));
        assert!(!still_going(soon, WORTH_EVICTING - 1) && !still_going(late, gib));
    }

    #[test]
    fn a_disk_is_short_by_part_by_amount_and_by_files() {
        let gib = 1 << 30;
        assert_eq!(short_of(10 * gib, gib, 0, 0), None);
        let short = short_of(10 * gib, gib / 4, 0, 0).unwrap();
        assert!(short.message.contains("available: 262144Ki"), "{short:?}");
        assert_eq!(short.missing_bytes, Some(gib - gib / 4));
        assert_eq!(short_of(1000 * gib, 2 * gib, 0, 0), None, "a large disk is short below 1 GiB only");
        assert!(short_of(1000 * gib, gib / 2, 0, 0).is_some());
        let files = short_of(10 * gib, 5 * gib, 1000, 10).unwrap();
        assert!(files.message.contains("inodes") && files.missing_bytes.is_none(), "{files:?}");
    }
}
