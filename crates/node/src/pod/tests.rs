//! The state machine by tables, and the worker through whole lives on a runtime in memory.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use pod_runtime::{
    ContainerId, ContainerState, ContainerStatus, Exit, SandboxId, SandboxNetwork, SandboxSpec, SandboxStatus,
};
use serde_json::{Value, json};

use super::memory::{FailureKind, LaunchFailure, Memory, NodeVerdict};
use super::observed::Observed;
use super::plan::{Action, Decision, Key, decide};
use super::spec::testing::pod;
use super::status::status;
use super::view::View;
use crate::clock::Moment;
use crate::probe::{Kind, Rules, Tracker};

mod worker;

/// A pod at a moment.
struct Scene {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    now: Moment,
    gone: bool,
}

const NOW: i64 = 10_000;

fn sandbox(ready: bool) -> SandboxStatus {
    SandboxStatus {
        spec: SandboxSpec {
            id: SandboxId("u1-0".into()),
            namespace: "default".into(),
            name: "web".into(),
            uid: "u1".into(),
            hostname: "web".into(),
            network: SandboxNetwork::Pod,
            of_node: Default::default(),
            host_ports: Vec::new(),
            sysctls: Default::default(),
            cpu_shares: None,
            annotations: Default::default(),
        },
        ready,
        addresses: vec!["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        network_namespace: None,
        created_at: 0,
    }
}

fn running(name: &str, attempt: u32) -> ContainerStatus {
    listed(name, attempt, ContainerState::Running { started_at: NOW - 100 })
}

fn exited(name: &str, attempt: u32, code: i32, finished_at: i64) -> ContainerStatus {
    let exit = Exit { code, signal: None, started_at: 1, finished_at, reason: "Error".into(), message: String::new() };
    listed(name, attempt, ContainerState::Exited(exit))
}

fn listed(name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        id: ContainerId(format!("{name}-{attempt}")),
        sandbox: SandboxId("u1-0".into()),
        name: name.into(),
        attempt,
        image: "img".into(),
        image_id: "sha256:1".into(),
        state,
        log_path: "/log".into(),
        annotations: Default::default(),
    }
}

impl Scene {
    /// Volumes are there, and a sandbox with these containers.
    fn new(spec: Value, containers: Vec<ContainerStatus>) -> Self {
        let mut memory = Memory::default();
        memory.volumes.succeeded();
        let observed = Observed { sandbox: Some(sandbox(true)), containers };
        Scene { pod: pod(spec), observed, memory, now: Moment::from_seconds(NOW), gone: false }
    }

    fn one(restart: &str, containers: Vec<ContainerStatus>) -> Self {
        Scene::new(json!({"restartPolicy": restart, "containers": [{"name": "m", "image": "img"}]}), containers)
    }

    fn view(&self) -> View<'_> {
        View { pod: &self.pod, gone: self.gone, observed: &self.observed, memory: &self.memory, now: self.now }
    }

    fn decide(&self) -> Decision {
        decide(&self.view())
    }

    /// What is done, in short.
    fn acts(&self) -> Vec<String> {
        self.decide().actions.iter().map(short).collect()
    }

    fn status(&self) -> Value {
        serde_json::to_value(status(&self.view(), &["172.30.0.11".parse().unwrap()])).unwrap()
    }

    fn condition(&self, name: &str) -> String {
        let status = self.status();
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == name).unwrap();
        let reason = found["reason"].as_str().map(|reason| format!(" {reason}")).unwrap_or_default();
        format!("{}{reason}", found["status"].as_str().unwrap())
    }

    fn probed(mut self, name: &str, kind: Kind, good: bool, times: u32) -> Self {
        let member = super::spec::member(&self.pod, name).unwrap();
        let rules = Rules::of(super::memory::probe_of(member.container, kind).unwrap());
        let id = ContainerId(format!("{name}-0"));
        let fresh = Tracker::new(kind, &rules, Moment::from_seconds(NOW - 100));
        let tracker = self.memory.tracker_mut(name, fresh, kind, &id);
        for time in 0..times {
            tracker.record(good, &rules, Moment::from_seconds(NOW - 100 + i64::from(time) * 10));
        }
        self
    }

    fn deleted(mut self, grace: i64) -> Self {
        self.pod.metadata.deletion_timestamp = Some(Moment::from_seconds(NOW + grace).time());
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self
    }
}

fn short(action: &Action) -> String {
    match action {
        Action::PrepareVolumes => "volumes".into(),
        Action::RefreshVolumes => "refresh-volumes".into(),
        Action::RemoveVolumes => "remove-volumes".into(),
        Action::RunSandbox(id) => format!("run {}", id.0),
        Action::StopSandbox(id) => format!("stop-sandbox {}", id.0),
        Action::RemoveSandbox(id) => format!("remove-sandbox {}", id.0),
        Action::Launch { container, attempt, may_pull, .. } => {
            format!("launch {container}/{attempt}{}", if *may_pull { "" } else { " local" })
        }
        Action::Stop { id, grace, why, hook, .. } => {
            let hook = if *hook { "" } else { " again" };
            format!("stop {} {} {why:?}{hook}", id.0, grace.as_secs())
        }
        Action::Remove(id) => format!("remove {}", id.0),
        Action::Probe { container, kind, .. } => format!("probe {container} {kind}"),
        Action::Finish => "finish".into(),
    }
}

#[test]
fn volumes_then_sandbox_then_containers() {
    let mut scene = Scene::one("Always", vec![]);
    (scene.memory, scene.observed) = (Memory::default(), Observed::default());
    assert_eq!(scene.acts(), ["volumes"]);
    scene.memory.in_flight.insert(Key::Volumes);
    assert!(scene.acts().is_empty(), "under way");
    scene.memory.in_flight.clear();
    scene.memory.volumes.failed("no such ConfigMap".into(), scene.now);
    assert_eq!((scene.acts().len(), scene.decide().wake_at), (0, Some(scene.now.plus(Duration::from_millis(250)))));
    scene.memory.volumes.succeeded();
    assert_eq!(scene.acts(), ["run u1-0"]);
    scene.observed.sandbox = Some(sandbox(true));
    assert_eq!(scene.acts(), ["launch m/0"]);
}

#[test]
fn a_lost_sandbox_is_replaced_and_containers_start_over() {
    let mut scene = Scene::one("Always", vec![running("m", 0)]);
    scene.pod.status = Some(status(&scene.view(), &[]));
    scene.observed = Observed { sandbox: Some(sandbox(false)), containers: vec![] };
    assert_eq!(scene.acts(), ["remove-sandbox u1-0"]);
    assert_eq!(scene.decide().notices[0].reason, "SandboxChanged");
    scene.observed = Observed::default();
    scene.memory.next_sandbox = 1;
    assert_eq!(scene.acts(), ["run u1-1"]);
    scene.observed.sandbox = Some(sandbox(true));
    assert_eq!(scene.acts(), ["launch m/1"]);
    let container = &scene.status()["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(container["state"]["waiting"]["reason"], "ContainerCreating");
}

#[test]
fn init_containers_run_in_order_and_main_ones_together() {
    let spec = json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "m"}, {"name": "n"}]});
    let at = |containers| Scene::new(spec.clone(), containers);
    assert_eq!(at(vec![]).acts(), ["launch a/0"]);
    assert!(at(vec![running("a", 0)]).acts().is_empty());
    assert_eq!(at(vec![exited("a", 0, 0, NOW)]).acts(), ["launch b/0"]);
    assert_eq!(at(vec![exited("a", 0, 1, NOW)]).acts(), ["launch a/1"], "an init container that failed runs again");
    let done = vec![exited("a", 0, 0, NOW), exited("b", 0, 0, NOW)];
    assert_eq!(at(done.clone()).acts(), ["launch m/0", "launch n/0"]);
    assert_eq!(at(done).condition("Initialized"), "True");
    let waiting = at(vec![running("a", 0)]);
    assert_eq!(waiting.condition("Initialized"), "False ContainersNotInitialized");
    let status = waiting.status();
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!((status["phase"].as_str(), status["podIP"].as_str()), (Some("Pending"), Some("10.244.0.5")));
}

#[test]
fn an_init_container_that_fails_for_good_fails_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "m"}]});
    let mut scene = Scene::new(spec, vec![exited("a", 0, 1, NOW)]);
    assert_eq!(scene.acts(), ["stop-sandbox u1-0"]);
    assert_eq!(scene.status()["phase"], "Failed");
    scene.observed.sandbox = Some(sandbox(false));
    assert!(scene.acts().is_empty());
}

#[test]
fn a_sidecar_must_have_started_before_the_next_and_is_kept_running() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["true"]}}}], "containers": [{"name": "m"}]});
    let at = |containers| Scene::new(spec.clone(), containers);
    assert_eq!(at(vec![running("s", 0)]).acts(), ["probe s Startup"]);
    assert_eq!(at(vec![running("s", 0)]).probed("s", Kind::Startup, true, 1).acts(), ["launch m/0"]);
    let crashed = at(vec![exited("s", 0, 0, NOW), running("m", 0)]);
    assert_eq!(crashed.acts(), ["launch s/1"], "ended well or not, it runs again, and m is left alone");
    assert_eq!(crashed.condition("Ready"), "False ContainersNotReady");
}

#[test]
fn restarts_by_policy_and_exit_code() {
    let table = [
        ("Always", 0, vec!["launch m/1"], "Running"),
        ("Always", 1, vec!["launch m/1"], "Running"),
        ("OnFailure", 1, vec!["launch m/1"], "Running"),
        ("OnFailure", 0, vec!["stop-sandbox u1-0"], "Succeeded"),
        ("Never", 0, vec!["stop-sandbox u1-0"], "Succeeded"),
        ("Never", 1, vec!["stop-sandbox u1-0"], "Failed"),
    ];
    for (policy, code, acts, phase) in table {
        let scene = Scene::one(policy, vec![exited("m", 0, code, NOW)]);
        assert_eq!(scene.acts(), acts, "{policy} {code}");
        assert_eq!(scene.status()["phase"], phase, "{policy} {code}");
    }
}

#[test]
fn crashes_back_off_and_say_so_once() {
    let mut scene = Scene::one("Always", vec![exited("m", 1, 1, NOW)]);
    let at = Moment::from_seconds;
    scene.memory.launching("m", Some(at(NOW - 1)), at(NOW - 1));
    let decision = scene.decide();
    assert_eq!((decision.actions.len(), decision.wake_at), (0, Some(at(NOW + 10))));
    assert_eq!(decision.notices[0].reason, "BackOff");
    let container = &scene.status()["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let message = "back-off 10s restarting failed container=m pod=web_default(u1)";
    assert_eq!(container["state"]["waiting"]["message"], message);
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(container["restartCount"], 1);
    scene.memory.announced.insert(decision.notices[0].key.clone());
    assert!(scene.decide().notices.is_empty());
    scene.now = at(NOW + 10);
    assert_eq!(scene.acts(), ["launch m/2"]);
    scene.memory.launching("m", Some(at(NOW)), scene.now);
    scene.memory.in_flight.insert(Key::Launch("m".into()));
    assert_eq!(scene.decide(), Decision::default(), "nothing to say while it starts");
}

#[test]
fn a_missing_image_shows_as_an_error_first_and_as_backing_off_then() {
    let mut scene = Scene::one("Always", vec![]);
    let now = scene.now;
    let failure =
        LaunchFailure { attempt: 0, kind: FailureKind::ImagePull, message: "no such".into(), at: now, checked: now };
    scene.memory.launch_failed("m", failure, true, now);
    let waiting = |scene: &Scene| scene.status()["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    assert_eq!(waiting(&scene), "ErrImagePull");
    assert!(scene.acts().is_empty());
    scene.now = now.plus(Duration::from_secs(2));
    assert_eq!((waiting(&scene), scene.acts()), (json!("ImagePullBackOff"), vec!["launch m/0 local".to_owned()]));
    assert_eq!(scene.decide().notices[0].message, "Back-off pulling image \"img\"");
    scene.now = now.plus(Duration::from_secs(10));
    scene.memory.containers.get_mut("m").unwrap().failure.as_mut().unwrap().checked = scene.now;
    assert_eq!(scene.acts(), ["launch m/0"]);
    assert_eq!(scene.status()["phase"], "Pending");
}

#[test]
fn a_command_that_cannot_run_backs_off_like_a_crash_and_says_why() {
    let mut scene = Scene::one("Always", vec![exited("m", 0, 128, NOW)]);
    let failure = |attempt, at: Moment| LaunchFailure {
        attempt,
        kind: FailureKind::Run,
        message: "no such file".into(),
        at,
        checked: at,
    };
    scene.memory.launch_failed("m", failure(0, scene.now), true, scene.now);
    assert_eq!(scene.acts(), ["launch m/1"], "the first repetition is immediate");
    let waiting = scene.status()["containerStatuses"][0]["state"]["waiting"].clone();
    assert_eq!(
        (waiting["reason"].as_str(), waiting["message"].as_str()),
        (Some("RunContainerError"), Some("no such file"))
    );
    scene.memory.launching("m", Some(Moment::from_seconds(NOW)), scene.now);
    scene.memory.launch_failed("m", failure(1, scene.now), true, scene.now);
    scene.observed.containers = vec![exited("m", 1, 128, NOW)];
    let decision = scene.decide();
    assert_eq!((decision.actions.len(), decision.wake_at), (0, Some(Moment::from_seconds(NOW + 10))));
}

#[test]
fn readiness_gates_the_pod_and_liveness_restarts_it() {
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 10, "failureThreshold": 2});
    let spec = json!({"containers": [{"name": "m", "readinessProbe": probe, "livenessProbe": probe}]});
    let fresh = || Scene::new(spec.clone(), vec![running("m", 0)]);
    assert_eq!(fresh().acts(), ["probe m Readiness", "probe m Liveness"]);
    assert_eq!(fresh().condition("Ready"), "False ContainersNotReady");
    let ready = fresh().probed("m", Kind::Readiness, true, 1);
    assert_eq!((ready.condition("Ready"), ready.condition("ContainersReady")), ("True".into(), "True".into()));
    assert_eq!(ready.status()["containerStatuses"][0]["ready"], true);
    let dead = fresh().probed("m", Kind::Liveness, false, 2);
    assert!(dead.acts().contains(&"stop m-0 30 Liveness".to_owned()), "{:?}", dead.acts());
    let alive = fresh().probed("m", Kind::Liveness, false, 1);
    assert!(!alive.acts().iter().any(|act| act.starts_with("stop")));
}

#[test]
fn a_startup_probe_holds_the_others_back() {
    let probe = json!({"exec": {"command": ["true"]}, "failureThreshold": 1, "terminationGracePeriodSeconds": 5});
    let spec = json!({"containers": [{"name": "m", "startupProbe": probe, "readinessProbe": probe}]});
    let fresh = || Scene::new(spec.clone(), vec![running("m", 0)]);
    assert_eq!(fresh().acts(), ["probe m Startup"]);
    assert_eq!(fresh().status()["containerStatuses"][0]["started"], false);
    let started = fresh().probed("m", Kind::Startup, true, 1);
    assert_eq!(started.acts(), ["probe m Readiness"]);
    assert_eq!(started.status()["containerStatuses"][0]["started"], true);
    let failed = fresh().probed("m", Kind::Startup, false, 3);
    assert_eq!(failed.acts(), ["stop m-0 5 Startup"]);
}

#[test]
fn readiness_gates_of_others_count() {
    let spec = json!({"containers": [{"name": "m"}], "readinessGates": [{"conditionType": "lb/ready"}]});
    let mut scene = Scene::new(spec, vec![running("m", 0)]);
    assert_eq!(scene.condition("Ready"), "False ReadinessGatesNotReady");
    assert_eq!(scene.condition("ContainersReady"), "True");
    let gate = |value: &str| json!({"conditions": [{"type": "lb/ready", "status": value}]});
    scene.pod.status = Some(serde_json::from_value(gate("False")).unwrap());
    assert_eq!(scene.condition("Ready"), "False ReadinessGatesNotReady");
    scene.pod.status = Some(serde_json::from_value(gate("True")).unwrap());
    assert_eq!(scene.condition("Ready"), "True");
    assert_eq!(scene.condition("lb/ready"), "True", "and it is kept");
}

#[test]
fn deletion_stops_containers_then_sidecars_in_reverse_then_the_network() {
    let spec = json!({"initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "m"}, {"name": "n"}]});
    let at = |containers| Scene::new(spec.clone(), containers).deleted(30);
    let all = vec![running("s1", 0), running("s2", 0), running("m", 0), running("n", 0)];
    assert_eq!(at(all.clone()).acts(), ["stop m-0 30 PodEnds", "stop n-0 30 PodEnds"]);
    let mut shorter = at(all).deleted(1);
    shorter.memory.in_flight.insert(Key::Stop(ContainerId("m-0".into()), 30));
    assert_eq!(shorter.acts(), ["stop m-0 1 PodEnds again", "stop n-0 1 PodEnds"], "a shorter grace is a new order");
    let mains = [exited("m", 0, 0, NOW), exited("n", 0, 0, NOW)];
    let sidecars = |first: ContainerStatus, second: ContainerStatus| [vec![first, second], mains.to_vec()].concat();
    assert_eq!(at(sidecars(running("s1", 0), running("s2", 0))).acts(), ["stop s2-0 30 PodEnds"]);
    assert_eq!(at(sidecars(running("s1", 0), exited("s2", 0, 0, NOW))).acts(), ["stop s1-0 30 PodEnds"]);
    let mut last = at(sidecars(exited("s1", 0, 0, NOW), exited("s2", 0, 0, NOW)));
    assert_eq!(last.acts(), ["stop-sandbox u1-0"]);
    assert_eq!(last.status()["phase"], "Succeeded");
    last.observed.sandbox = Some(sandbox(false));
    assert_eq!(last.acts(), ["finish"]);
}

#[test]
fn a_sidecar_gets_what_the_others_have_left_of_the_grace() {
    let spec = json!({"initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "m"}]});
    let sidecars = |first, second| vec![first, second, exited("m", 0, 0, NOW)];
    let mut scene = Scene::new(spec.clone(), sidecars(running("s1", 0), running("s2", 0))).deleted(30);
    scene.now = Moment::from_seconds(NOW + 12);
    assert_eq!(scene.acts(), ["stop s2-0 18 PodEnds"]);
    scene.memory.in_flight.insert(Key::Stop(ContainerId("s2-0".into()), 30));
    scene.now = Moment::from_seconds(NOW + 20);
    assert!(scene.acts().is_empty(), "less time is no new order");
    scene.memory.in_flight.clear();
    scene.observed.containers = sidecars(running("s1", 0), exited("s2", 0, 0, NOW));
    scene.now = Moment::from_seconds(NOW + 100);
    assert_eq!(scene.acts(), ["stop s1-0 2 PodEnds"], "a little in any case");
    // A pod that ends without being deleted counts from then.
    let mut ended = Scene::new(spec, sidecars(running("s1", 0), exited("s2", 0, 0, NOW)));
    ended.pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    ended.memory.ending_since = Some(Moment::from_seconds(NOW - 10));
    assert_eq!(ended.acts(), ["stop s1-0 20 PodEnds"]);
}

#[test]
fn a_container_whose_image_has_changed_is_replaced_whatever_the_policy() {
    let mut scene = Scene::one("Never", vec![running("m", 0)]);
    assert!(scene.acts().is_empty());
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    assert_eq!(scene.acts(), ["stop m-0 30 Changed"]);
    scene.memory.replaced.insert(ContainerId("m-0".into()));
    scene.observed.containers = vec![exited("m", 0, 143, NOW)];
    assert_eq!(scene.acts(), ["launch m/1"], "at once");
    assert_eq!(scene.status()["phase"], "Running");
    let mut new = running("m", 1);
    new.image = "other".into();
    scene.observed.containers.push(new);
    assert!(scene.acts().is_empty());
    // What ran to its end before isn't run again, nor is an init container.
    let mut scene = Scene::one("Never", vec![exited("m", 0, 0, NOW)]);
    scene.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    assert_eq!(scene.status()["phase"], "Succeeded");
    let spec =
        json!({"initContainers": [{"name": "i", "image": "other"}], "containers": [{"name": "m", "image": "img"}]});
    assert!(Scene::new(spec, vec![exited("i", 0, 0, NOW), running("m", 0)]).acts().is_empty());
}

#[test]
fn while_a_pod_ends_readiness_is_still_asked_and_liveness_is_not() {
    let probe = json!({"exec": {"command": ["true"]}});
    let spec = json!({"containers": [{"name": "m", "readinessProbe": probe, "livenessProbe": probe}]});
    let mut scene = Scene::new(spec, vec![running("m", 0)]).deleted(30);
    scene.memory.in_flight.insert(Key::Stop(ContainerId("m-0".into()), 30));
    assert_eq!(scene.acts(), ["probe m Readiness"]);
}

#[test]
fn a_pod_whose_object_is_gone_ends_too_and_a_start_under_way_is_waited_for() {
    let mut scene = Scene::one("Always", vec![running("m", 0)]);
    scene.gone = true;
    assert_eq!(scene.acts(), ["stop m-0 30 PodEnds"]);
    scene.memory.in_flight.insert(Key::Launch("m".into()));
    assert!(scene.acts().is_empty());
    scene = Scene::one("Always", vec![]).deleted(30);
    scene.observed = Observed::default();
    assert_eq!(scene.acts(), ["finish"], "nothing was ever made of it");
}

#[test]
fn a_deadline_fails_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 5, "containers": [{"name": "m"}]});
    let mut scene = Scene::new(spec, vec![running("m", 0)]);
    let started = serde_json::to_value(Moment::from_seconds(NOW - 4).time()).unwrap();
    scene.pod.status = Some(serde_json::from_value(json!({"startTime": started})).unwrap());
    assert_eq!(scene.decide().wake_at, Some(Moment::from_seconds(NOW + 1)));
    scene.now = Moment::from_seconds(NOW + 1);
    assert_eq!(scene.acts(), ["stop m-0 30 PodEnds"]);
    scene.observed.containers = vec![exited("m", 0, 143, NOW)];
    let status = scene.status();
    assert_eq!((status["phase"].as_str(), status["reason"].as_str()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_terminal_pod_is_never_started_again_and_its_report_is_stable() {
    let mut scene = Scene::one("Never", vec![exited("m", 0, 0, NOW)]);
    scene.observed.sandbox = Some(sandbox(false));
    let first = status(&scene.view(), &["172.30.0.11".parse().unwrap()]);
    scene.pod.status = Some(first.clone());
    scene.observed = Observed::default();
    scene.memory = Memory::default();
    scene.now = Moment::from_seconds(NOW + 500);
    assert_eq!(scene.acts(), ["remove-volumes"]);
    scene.memory.volumes_removed = true;
    assert_eq!(scene.decide(), Decision::default());
    let second = status(&scene.view(), &["172.30.0.11".parse().unwrap()]);
    assert_eq!(super::status::patch(Some(&first), &second), None);
}

#[test]
fn an_evicted_pod_fails_with_its_reason_and_gives_back_what_it_wrote() {
    let mut scene = Scene::one("Always", vec![running("m", 0)]);
    let message = "The node was low on resource: ephemeral-storage. ".to_owned();
    scene.memory.failed = Some(NodeVerdict { reason: "Evicted", message: message.clone() });
    assert_eq!(scene.acts(), ["stop m-0 1 PodEnds"], "a second, whatever the pod's own grace is");
    scene.observed.containers = vec![exited("m", 0, 137, NOW)];
    let failed = scene.status();
    assert_eq!(
        (&failed["phase"], &failed["reason"], &failed["message"]),
        (&json!("Failed"), &json!("Evicted"), &json!(message))
    );
    scene.pod.status = Some(serde_json::from_value(failed).unwrap());
    assert_eq!(scene.acts(), ["stop-sandbox u1-0"]);
    scene.observed.sandbox = Some(sandbox(false));
    assert_eq!(scene.acts(), ["remove-volumes"]);
    // The API can't be told: its disk may be the full one.
    let untold = Scene::one("Always", vec![]);
    let (failed, ending_since) = (scene.memory.failed.clone(), Some(Moment::from_seconds(NOW - 20)));
    let memory = Memory { failed, ending_since, ..Memory::default() };
    let mut untold = Scene { observed: scene.observed.clone(), memory, ..untold };
    assert_eq!(untold.acts(), ["remove-volumes"]);
    untold.memory.ending_since = Some(untold.now);
    assert!(untold.acts().is_empty(), "a while it is waited for");
    // Also for an agent that starts now.
    scene.memory = Memory { volumes_removed: true, ..Memory::default() };
    assert_eq!(scene.acts(), ["remove-sandbox u1-0"]);
    assert_eq!(scene.status()["reason"], "Evicted");
}

#[test]
fn only_the_last_two_runs_are_kept() {
    let runs = vec![exited("m", 0, 1, 5), exited("m", 1, 1, 6), exited("m", 2, 1, 7), running("m", 3)];
    assert_eq!(Scene::one("Always", runs).acts(), ["remove m-1", "remove m-0"]);
}

#[test]
fn an_adopted_pod_stays_ready() {
    let probe = json!({"exec": {"command": ["true"]}});
    let spec = json!({"containers": [{"name": "m", "readinessProbe": probe, "startupProbe": probe}]});
    let ready = Scene::new(spec, vec![running("m", 0)]).probed("m", Kind::Startup, true, 1).probed(
        "m",
        Kind::Readiness,
        true,
        1,
    );
    let mut adopted = Scene { pod: ready.pod.clone(), ..Scene::one("Always", vec![running("m", 0)]) };
    adopted.pod.status = Some(status(&ready.view(), &[]));
    let ids = [("m".to_owned(), ContainerId("m-0".into()))].into();
    adopted.memory = Memory::adopt(&adopted.pod, &ids, adopted.now);
    assert_eq!(adopted.condition("Ready"), "True");
    let other = [("m".to_owned(), ContainerId("m-9".into()))].into();
    assert!(Memory::adopt(&adopted.pod, &other, adopted.now).probes.is_empty(), "another run proves nothing");
}

#[test]
fn the_status_has_every_address_and_condition() {
    let scene = Scene::one("Always", vec![running("m", 0)]);
    let status = scene.status();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.244.0.5"}, {"ip": "fd00::5"}]));
    assert_eq!(status["hostIP"], "172.30.0.11");
    assert_eq!(status["observedGeneration"], 1);
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "portolan://m-0");
    assert_eq!(container["imageID"], "sha256:1");
    for name in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(scene.condition(name), "True", "{name}");
    }
    let host = Scene::new(json!({"hostNetwork": true, "containers": [{"name": "m"}]}), vec![]);
    assert_eq!(host.status()["podIP"], "172.30.0.11");
}
