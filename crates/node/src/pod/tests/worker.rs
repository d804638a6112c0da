//! The worker itself.

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::Events;
use crate::pod::{PodChange, Shared, Worker, WorkerHandle};
use crate::source_watch::SourceWatch;
use crate::testing::{FakeApi, FakeRuntime, TempDir};
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{reflector, watcher};
use pod_runtime::PodRuntime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WEB: &str = "/api/v1/namespaces/default/pods/web";

struct Bench {
    api: FakeApi,
    runtime: Arc<FakeRuntime>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    dir: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let (api, runtime, dir) = (FakeApi::default(), FakeRuntime::new(), TempDir::new());
        let (stop, clock) = (CancellationToken::new(), Clock::start());
        let (events, task) = Events::new(api.client(), "n1", stop.clone());
        tokio::spawn(task);
        let (services, mut writer) = reflector::store::<Service>();
        let service = json!({"metadata": {"namespace": "default", "name": "db"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 5432}]}});
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitApply(serde_json::from_value(service).unwrap()));
        writer.apply_watcher_event(&watcher::Event::InitDone);
        std::mem::forget(writer);
        let shared = Shared {
            source_watch: SourceWatch::new(api.client(), stop.clone()),
            client: api.client(),
            config: Config::new("n1", vec!["172.30.0.11".parse().unwrap()], dir.path().to_owned()),
            runtime: runtime.clone(),
            clock,
            events,
            services,
            pulls: tokio::sync::Semaphore::new(2),
            cpu_millis: 1000,
            memory_bytes: 1 << 30,
        };
        Bench { api, runtime, shared: Arc::new(shared), stop, dir }
    }

    fn start(&self, spec: Value) -> (Arc<WorkerHandle>, JoinHandle<()>) {
        let object = json!({"metadata": {"namespace": "default", "name": "web", "generation": 1}, "spec": spec});
        let object = self.api.put(WEB, object);
        self.work(&object)
    }

    fn work(&self, object: &Value) -> (Arc<WorkerHandle>, JoinHandle<()>) {
        let pod: Pod = serde_json::from_value(object.clone()).unwrap();
        let (handle, worker) = Worker::new(self.shared.clone(), Arc::new(pod), None);
        let handle = Arc::new(handle);
        let mut changes = self.runtime.changes();
        let poked = handle.clone();
        tokio::spawn(async move {
            while changes.recv().await.is_ok() {
                poked.poke();
            }
        });
        (handle, tokio::spawn(worker.run(self.stop.clone())))
    }

    fn tell(&self, handle: &WorkerHandle) {
        let pod: Pod = serde_json::from_value(self.api.get(WEB).unwrap()).unwrap();
        handle.desired.send_replace(PodChange { pod: Arc::new(pod), gone: false, failed: None });
    }
}

fn condition(pod: &Value, name: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == name && c["status"] == "True")
}

#[tokio::test]
async fn a_pod_lives_from_creation_to_its_last_trace() {
    let bench = Bench::new().await;
    let spec = json!({"terminationGracePeriodSeconds": 7, "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "lifecycle": {"postStart": {"exec": {"command": ["began"]}}, "preStop": {"exec": {"command": ["ends"]}}},
        "readinessProbe": {"exec": {"command": ["ready?"]}, "periodSeconds": 1}}]});
    let (handle, task) = bench.start(spec);
    let pod = bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "127.0.0.1");
    let spec = bench.runtime.spec_of("m").unwrap();
    assert!(spec.env.contains(&("DB_PORT".into(), "tcp://10.96.0.9:5432".into())), "{:?}", spec.env);
    let mounts: Vec<_> = spec.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
    assert_eq!(mounts, ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/dev/termination-log", "/v"]);
    let hosts = std::fs::read_to_string(&spec.mounts[0].source).unwrap();
    assert!(hosts.contains("127.0.0.1\tweb\n"), "{hosts}");
    for (reason, text) in [("Pulled", "already present"), ("Created", "m"), ("Started", "m")] {
        let event = bench.api.event(reason, text).await;
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{m}");
    }
    bench.api.delete(WEB, 7);
    bench.tell(&handle);
    bench.api.until(WEB, Value::is_null).await;
    task.await.unwrap();
    bench.api.event("Killing", "Stopping container m").await;
    let calls = bench.runtime.calls();
    let order: Vec<_> = calls.iter().map(String::as_str).filter(|call| *call != "exec ready?").collect();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let expected = [
        format!("sandbox {uid}-0"),
        "create m/0".into(),
        "start m/0".into(),
        "exec began".into(),
        "exec ends".into(),
        "stop m 15 7".into(),
        format!("stop-sandbox {uid}-0"),
        format!("remove-sandbox {uid}-0"),
    ];
    // The hook's few microseconds may have cost a second of the grace.
    let order: Vec<_> = order.iter().map(|call| call.replace("stop m 15 6", "stop m 15 7")).collect();
    assert_eq!(order, expected);
    assert!(bench.runtime.is_empty());
    assert!(std::fs::read_dir(bench.dir.path().join("pods")).unwrap().next().is_none(), "no file is left");
}

#[tokio::test]
async fn a_container_that_dies_is_restarted_and_counted() {
    let bench = Bench::new().await;
    bench.start(json!({"containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]}));
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    bench.runtime.exit("m", 3);
    let pod = bench.api.until(WEB, |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    let pod = if condition(&pod, "Ready") { pod } else { bench.api.until(WEB, |pod| condition(pod, "Ready")).await };
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    bench.runtime.exit("m", 4);
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    bench.api.until(WEB, |pod| waiting(pod) == "CrashLoopBackOff").await;
    bench.api.event("BackOff", "Back-off restarting failed container m").await;
}

#[tokio::test]
async fn a_pod_that_runs_once_completes() {
    let bench = Bench::new().await;
    bench.start(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "first", "image": "exit-0", "imagePullPolicy": "IfNotPresent"}],
        "containers": [{"name": "m", "image": "exit-0", "imagePullPolicy": "IfNotPresent"}]}));
    let pod = bench.api.until(WEB, |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert!(!condition(&pod, "Ready"));
}

#[tokio::test]
async fn a_missing_image_is_explained_and_used_as_soon_as_it_is_there() {
    let bench = Bench::new().await;
    bench.start(json!({"containers": [{"name": "m", "image": "later", "imagePullPolicy": "IfNotPresent"}]}));
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    bench.api.until(WEB, |pod| waiting(pod) == "ErrImagePull").await;
    bench.api.event("Failed", "portolan image load").await;
    bench.runtime.load("later");
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    let pulls = bench.runtime.calls().iter().filter(|call| call.starts_with("pull")).count();
    assert_eq!(pulls, 1);
}

#[tokio::test]
async fn what_is_missing_or_unsupported_is_named_and_the_pod_waits() {
    let bench = Bench::new().await;
    bench.start(json!({"shareProcessNamespace": true, "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
        "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]}));
    bench.api.event("FailedMount", "spec.volumes.nfs is not supported").await;
    bench.api.event("UnsupportedFields", "spec.shareProcessNamespace").await;
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    bench.api.until(WEB, |pod| waiting(pod) == "ContainerCreating").await;
    assert!(bench.runtime.is_empty());
}

#[tokio::test]
async fn a_config_map_that_comes_later_is_waited_for() {
    let bench = Bench::new().await;
    let source = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "a"}}}]);
    bench.start(
        json!({"containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent", "env": source}]}),
    );
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod = bench.api.until(WEB, |pod| waiting(pod)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(waiting(&pod)["message"], "configmap \"conf\" not found");
    let conf = json!({"metadata": {"namespace": "default"}, "data": {"a": "1"}});
    bench.api.put("/api/v1/namespaces/default/configmaps/conf", conf);
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    assert!(bench.runtime.spec_of("m").unwrap().env.contains(&("A".into(), "1".into())));
}

#[tokio::test]
async fn files_of_a_volume_follow_their_config_map_and_the_pod_s_labels() {
    let bench = Bench::new().await;
    const CONF: &str = "/api/v1/namespaces/default/configmaps/conf";
    let conf = |value: &str| json!({"metadata": {"namespace": "default"}, "data": {"key": value}});
    bench.api.put(CONF, conf("1"));
    let labels = json!({"fieldRef": {"fieldPath": "metadata.labels"}, "path": "labels"});
    let volumes = json!([{"name": "conf", "configMap": {"name": "conf"}},
        {"name": "down", "downwardAPI": {"items": [labels]}}]);
    let (handle, _) = bench.start(json!({"volumes": volumes,
        "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]}));
    let pod = bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let volumes = bench.shared.config.volumes(uid).disk;
    let becomes = async |file: &str, text: &str| {
        let file = volumes.join(file);
        let reached = async {
            while std::fs::read_to_string(&file).ok().as_deref() != Some(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect(text);
    };
    becomes("conf/key", "1").await;
    bench.api.put(CONF, conf("2"));
    becomes("conf/key", "2").await;
    let mut labelled = bench.api.get(WEB).unwrap();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    bench.api.put(WEB, labelled);
    bench.tell(&handle);
    becomes("down/labels", "a=\"b\"").await;
    // What can't be brought up to date stays, and is told of.
    bench.api.remove(CONF);
    bench.api.event("FailedMount", "configmap \"conf\" not found").await;
    becomes("conf/key", "2").await;
    bench.api.put(CONF, conf("3"));
    becomes("conf/key", "3").await;
}

#[tokio::test]
async fn a_forbidden_sysctl_and_an_eviction_fail_the_pod() {
    let bench = Bench::new().await;
    let containers = json!([{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]);
    let sysctls = json!([{"name": "kernel.msgmax", "value": "1"}]);
    bench.start(json!({"securityContext": {"sysctls": sysctls}, "containers": containers}));
    bench.api.event("SysctlForbidden", "kernel.msgmax").await;
    let failed = bench.api.until(WEB, |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(failed["status"]["reason"], "SysctlForbidden");
    assert!(bench.runtime.is_empty());

    let bench = Bench::new().await;
    let (handle, _) = bench.start(json!({"containers": containers}));
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    let verdict = NodeVerdict { reason: "Evicted", message: "too much".into() };
    handle.desired.send_modify(|change| change.failed = Some(verdict));
    bench.api.event("Evicted", "too much").await;
    let failed = bench.api.until(WEB, |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!((&failed["status"]["reason"], &failed["status"]["message"]), (&json!("Evicted"), &json!("too much")));
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_the_container() {
    let bench = Bench::new().await;
    bench.runtime.exec_answers(1);
    bench.start(json!({"containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent",
        "livenessProbe": {"exec": {"command": ["alive?"]}, "periodSeconds": 1, "failureThreshold": 1}}]}));
    bench.api.event("Unhealthy", "Liveness probe failed: said").await;
    bench.api.event("Killing", "failed liveness probe, will be restarted").await;
    bench.api.until(WEB, |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
}

#[tokio::test]
async fn another_image_replaces_the_container() {
    let bench = Bench::new().await;
    bench.runtime.load("other");
    let container = json!({"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"});
    let (handle, _) = bench.start(json!({"restartPolicy": "Never", "containers": [container]}));
    let mut pod = bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    pod["spec"]["containers"][0]["image"] = json!("other");
    bench.api.put(WEB, pod);
    bench.tell(&handle);
    bench.api.event("Killing", "Container m definition changed, will be restarted").await;
    let again = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && condition(pod, "Ready");
    bench.api.until(WEB, again).await;
    assert_eq!(bench.runtime.spec_of("m").unwrap().image, "other");
}

#[tokio::test]
async fn a_node_that_went_down_starts_its_pods_again() {
    let bench = Bench::new().await;
    let spec = json!({"containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]});
    bench.start(spec);
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    bench.runtime.lose_sandboxes();
    let again = |pod: &Value| condition(pod, "Ready") && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    bench.api.until(WEB, again).await;
}

#[tokio::test]
async fn labels_that_do_not_match_refuse_a_pod_and_labels_that_cannot_be_read_do_not() {
    let spec = json!({"nodeName": "n1", "nodeSelector": {"zone": "b"},
        "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent"}]});
    let bench = Bench::new().await;
    let _running = bench.start(spec.clone());
    bench.api.until(WEB, |pod| condition(pod, "Ready")).await;
    bench.stop.cancel();

    let bench = Bench::new().await;
    bench.api.put("/api/v1/nodes/n1", json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}}));
    let _refused = bench.start(spec);
    let pod = bench.api.until(WEB, |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "NodeAffinity");
    bench.stop.cancel();
}
