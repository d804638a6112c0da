//! The agent as a whole: its tasks, and which pod has which worker.
//!
//! Not responsible for any decision about a pod (`pod`). When it stops, containers go on running: the node's init holds
//! them, and the next agent takes them over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use placement::Taken;
use pod_runtime::{PodRuntime, SandboxId, SandboxStatus};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::events::Events;
use crate::network::{NodeNetwork, watch_nodes};
use crate::pod::spec::{self, PodKey, sandbox_attempt};
use crate::pod::{NodeVerdict, Shared, Worker, WorkerHandle};
use crate::registration::{Capacity, Registration};
use crate::source_watch::SourceWatch;
use crate::{admission, dns_endpoint, farewell, server, usage};

/// How many images are pulled at a time.
const PULLS: usize = 2;
/// Pods to fail that the agent hasn't taken yet.
const FINDINGS: usize = 16;
/// What a container of a pod that nobody knows gets to end by itself.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

/// The pods that are served, by uid: written by the agent, read by the HTTP server.
pub type Pods = Arc<Mutex<BTreeMap<String, Arc<Pod>>>>;

/// What ends an agent. Cancelling `agent` leaves every container as it is, for the next one; cancelling `node` too, and
/// first, ends them.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    pub agent: CancellationToken,
    pub node: CancellationToken,
}

/// Runs a node's agent until it is cancelled. `network` is the one that `runtime` attaches pods with; none when the
/// runtime brings its own.
pub async fn run(
    client: Client,
    config: Config,
    runtime: Arc<dyn PodRuntime>,
    network: Option<Arc<NodeNetwork>>,
    Stop { agent: stop, node: node_ends }: Stop,
) -> Result<(), Error> {
    let state_dir = config.state_dir.clone();
    std::fs::create_dir_all(&state_dir).map_err(|source| Error::StateDir { path: state_dir.clone(), source })?;
    // Before anything is said of the node or comes to it.
    let (pressure, disk_pressure) = watch::channel(usage::is_short(state_dir).await);
    let listener = server::bind(&config.kubelet_listener)?;
    // Whatever ends this function ends what it started.
    let stop = stop.child_token();
    let _stopped = stop.clone().drop_guard();
    let clock = Clock::start();
    let capacity = Capacity::of_machine();
    let mut tasks = JoinSet::new();
    let (events, writer) = Events::new(client.clone(), &config.node_name, stop.clone());
    tasks.spawn(writer);

    let (cidr_sender, mut cidrs) = watch::channel(Vec::new());
    let registration = Registration {
        client: client.clone(),
        config: config.clone(),
        runtime: runtime.clone(),
        clock,
        capacity,
        disk_pressure: disk_pressure.clone(),
    };
    tasks.spawn(registration.run(cidr_sender, stop.clone()));
    let services = watch_services(&client, &mut tasks, &stop);
    let shared = Arc::new(Shared {
        client: client.clone(),
        config: config.clone(),
        runtime: runtime.clone(),
        clock,
        events: events.clone(),
        source_watch: SourceWatch::new(client.clone(), stop.clone()),
        services,
        pulls: Semaphore::new(PULLS),
        cpu_millis: capacity.cpu_millis,
        memory_bytes: capacity.memory_bytes,
    });
    let pods = Pods::default();
    tasks.spawn(server::serve(listener, shared.clone(), pods.clone(), stop.clone()));
    if let Some(dns) = config.dns.clone() {
        tasks.spawn(dns_endpoint::publish(client.clone(), config.clone(), dns, stop.clone()));
    }
    if let Some(network) = &network {
        let known = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            known = cidrs.wait_for(|cidrs| !cidrs.is_empty()) => known.map(|cidrs| cidrs.clone()).unwrap_or_default(),
        };
        network.set_cidrs(known)?;
        tasks.spawn(watch_nodes(client.clone(), config.clone(), network.clone(), stop.clone()));
    }
    events.node(&config.node_name, false, "Starting", "Starting kubelet.".to_owned());
    let (finder, findings) = mpsc::channel(FINDINGS);
    tasks.spawn(usage::watch(shared.clone(), pods.clone(), finder, pressure, stop.clone()));
    let (entries, workers) = (HashMap::new(), JoinSet::new());
    let allocatable = capacity.resources(&config);
    let agent = Agent {
        shared: shared.clone(),
        network,
        pods: pods.clone(),
        entries,
        workers,
        findings,
        allocatable,
        disk_pressure,
        stop: stop.clone(),
    };
    let result = agent.run().await;
    if node_ends.is_cancelled() {
        farewell::say(&shared, &pods).await;
    }
    stop.cancel();
    shared.source_watch.ended().await;
    while tasks.join_next().await.is_some() {}
    result
}

fn watch_services(client: &Client, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> reflector::Store<Service> {
    let (store, writer) = reflector::store();
    let stream =
        watcher(Api::<Service>::all(client.clone()), watcher::Config::default()).backoff(runtime::backoff::watching());
    let (stream, stop) = (stream.reflect(writer), stop.clone());
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                event = stream.next() => match event {
                    None => return,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => tracing::warn!(%error, "watching Services; environments use the last known"),
                },
            }
        }
    });
    store
}

struct Entry {
    key: PodKey,
    handle: WorkerHandle,
}

struct Agent {
    shared: Arc<Shared>,
    network: Option<Arc<NodeNetwork>>,
    pods: Pods,
    entries: HashMap<String, Entry>,
    /// Each gives the uid of the pod it served.
    workers: JoinSet<String>,
    findings: mpsc::Receiver<usage::Finding>,
    allocatable: BTreeMap<String, Quantity>,
    disk_pressure: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Agent {
    async fn run(mut self) -> Result<(), Error> {
        // Before the list, so that no start or end goes unnoticed.
        let mut changes = self.shared.runtime.changes();
        let sandboxes = self.shared.runtime.sandboxes().await?;
        let mut adoptable = newest_by_uid(&sandboxes);
        let mut orphans = Some(sandboxes);
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut events = self.watch_pods().boxed();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = changes.recv() => self.changed(changed),
                Some(ended) = self.workers.join_next() => self.worker_ended(ended),
                Some((uid, verdict)) = self.findings.recv() => self.fail(&uid, verdict),
                event = events.next() => match event {
                    None => break,
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(pod))) => {
                        listed.insert(PodKey::of(&pod).uid);
                        // Pods that aren't listed, so far, may be gone.
                        self.apply(pod, &mut adoptable, Some(&listed));
                    }
                    Some(Ok(watcher::Event::InitDone)) => {
                        self.forget_unlisted(&listed);
                        // From now on a worker asks the runtime itself.
                        adoptable.clear();
                        if let Some(sandboxes) = orphans.take() {
                            self.clean(sandboxes);
                        }
                    }
                    Some(Ok(watcher::Event::Apply(pod))) => self.apply(pod, &mut adoptable, None),
                    Some(Ok(watcher::Event::Delete(pod))) => self.gone(&PodKey::of(&pod).uid),
                    Some(Err(error)) => tracing::warn!(%error, "watching the node's pods; they go on as last known"),
                },
            }
        }
        while self.workers.join_next().await.is_some() {}
        Ok(())
    }

    fn watch_pods(&self) -> impl Stream<Item = Result<watcher::Event<Pod>, watcher::Error>> + Send + use<> {
        let fields = format!("spec.nodeName={}", self.shared.config.node_name);
        let config = watcher::Config::default().fields(&fields);
        watcher(Api::<Pod>::all(self.shared.client.clone()), config).backoff(runtime::backoff::watching())
    }

    /// `counted` are the pods that take room of the node; none is all.
    fn apply(&mut self, pod: Pod, adoptable: &mut HashMap<String, SandboxStatus>, counted: Option<&BTreeSet<String>>) {
        let key = PodKey::of(&pod);
        let pod = Arc::new(pod);
        self.publish(&key.uid, Some(&pod));
        match self.entries.get(&key.uid) {
            Some(entry) => entry.handle.desired.send_modify(|change| (change.pod, change.gone) = (pod, false)),
            None => {
                let refused = if admission::is_admitted(&pod) { None } else { self.refuse(&pod, counted) };
                self.start(key, pod, adoptable, refused);
            }
        }
    }

    /// Whether the node's state, or what the others leave, keeps a pod from being taken on. In the order they come, each
    /// sees all before it.
    fn refuse(&self, pod: &Pod, counted: Option<&BTreeSet<String>>) -> Option<NodeVerdict> {
        if *self.disk_pressure.borrow() && !admission::is_critical(pod) {
            return Some(admission::under_pressure("DiskPressure"));
        }
        let mut taken = Taken::default();
        for (_, entry) in self.entries.iter().filter(|(uid, _)| counted.is_none_or(|some| some.contains(*uid))) {
            let change = entry.handle.desired.borrow();
            if !change.gone && change.failed.is_none() && !spec::is_terminal(&change.pod) {
                taken.add(&placement::demand(&change.pod));
            }
        }
        admission::by_room(pod, &taken, &self.allocatable)
    }

    /// `failed` is why the node fails it, if it does so before anything of it is started.
    fn start(
        &mut self,
        key: PodKey,
        pod: Arc<Pod>,
        adoptable: &mut HashMap<String, SandboxStatus>,
        failed: Option<NodeVerdict>,
    ) {
        let (handle, worker) = Worker::new(self.shared.clone(), pod, adoptable.remove(&key.uid));
        handle.desired.send_modify(|change| change.failed = failed);
        let (uid, stop) = (key.uid.clone(), self.stop.clone());
        self.entries.insert(uid.clone(), Entry { key, handle });
        self.workers.spawn(async move {
            worker.run(stop).await;
            uid
        });
    }

    fn publish(&self, uid: &str, pod: Option<&Arc<Pod>>) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        match pod {
            Some(pod) => drop(pods.insert(uid.to_owned(), pod.clone())),
            None => drop(pods.remove(uid)),
        }
    }

    fn gone(&self, uid: &str) {
        if let Some(entry) = self.entries.get(uid) {
            entry.handle.desired.send_modify(|change| change.gone = true);
        }
    }

    /// The node fails a pod.
    fn fail(&self, uid: &str, verdict: NodeVerdict) {
        if let Some(entry) = self.entries.get(uid) {
            entry.handle.desired.send_modify(|change| change.failed = Some(verdict));
        }
    }

    fn forget_unlisted(&self, listed: &BTreeSet<String>) {
        for uid in self.entries.keys().filter(|uid| !listed.contains(*uid)) {
            self.gone(uid);
        }
    }

    fn changed(&self, changed: Result<pod_runtime::Changed, broadcast::error::RecvError>) {
        match changed {
            Ok(changed) => {
                let uid = changed.sandbox.0.rsplit_once('-').map_or(changed.sandbox.0.as_str(), |(uid, _)| uid);
                if let Some(entry) = self.entries.get(uid) {
                    entry.handle.poke();
                }
            }
            // Too many to keep: everybody looks.
            Err(_) => self.entries.values().for_each(|entry| entry.handle.poke()),
        }
    }

    fn worker_ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.entries.remove(&uid);
                self.publish(&uid, None);
            }
            Err(error) => {
                tracing::error!(%error, "a pod's worker failed; it starts over");
                self.revive();
            }
        }
    }

    /// Gives a new worker to each pod whose worker is gone.
    fn revive(&mut self) {
        let lost: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.handle.desired.is_closed())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in lost {
            if let Some(entry) = self.entries.remove(&uid) {
                let change = entry.handle.desired.borrow().clone();
                self.start(entry.key, change.pod, &mut HashMap::new(), change.failed);
                if let Some(entry) = self.entries.get(&uid) {
                    entry.handle.poke();
                    entry.handle.desired.send_modify(|desired| desired.gone = change.gone);
                }
            }
        }
    }

    /// Ends what an earlier agent left and nobody wants: sandboxes of unknown pods, and older ones of known pods.
    fn clean(&mut self, sandboxes: Vec<SandboxStatus>) {
        let kept = newest_by_uid(&sandboxes);
        let wanted = |sandbox: &SandboxStatus| {
            self.entries.contains_key(&sandbox.spec.uid)
                && kept.get(&sandbox.spec.uid).is_some_and(|newest| newest.spec.id == sandbox.spec.id)
        };
        let (known, orphans): (Vec<_>, Vec<_>) = sandboxes.into_iter().partition(wanted);
        let known: BTreeSet<SandboxId> = known.into_iter().map(|sandbox| sandbox.spec.id).collect();
        let (shared, network) = (self.shared.clone(), self.network.clone());
        self.workers.spawn(async move {
            let mut held = known;
            for sandbox in orphans {
                if let Err(error) = end_orphan(&shared, &sandbox).await {
                    tracing::warn!(%error, sandbox = sandbox.spec.id.0, "cannot remove an orphan");
                    held.insert(sandbox.spec.id);
                }
            }
            if let Some(network) = network {
                // Sandboxes made since the list was taken hold addresses too.
                let now = shared.runtime.sandboxes().await.unwrap_or_default();
                held.extend(now.into_iter().map(|sandbox| sandbox.spec.id));
                if let Err(error) = network.retain(&held).await {
                    tracing::warn!(%error, "cannot give back addresses that nobody has");
                }
            }
            String::new()
        });
    }
}

async fn end_orphan(shared: &Shared, sandbox: &SandboxStatus) -> Result<(), pod_runtime::RuntimeError> {
    const SIGTERM: i32 = 15;
    for container in shared.runtime.containers(Some(&sandbox.spec.id)).await? {
        if matches!(container.state, pod_runtime::ContainerState::Running { .. }) {
            shared.runtime.stop_container(&container.id, SIGTERM, ORPHAN_GRACE).await?;
        }
    }
    shared.runtime.remove_sandbox(&sandbox.spec.id).await
}

fn newest_by_uid(sandboxes: &[SandboxStatus]) -> HashMap<String, SandboxStatus> {
    let mut newest: HashMap<String, SandboxStatus> = HashMap::new();
    for sandbox in sandboxes {
        let known = newest.get(&sandbox.spec.uid).map(|known| sandbox_attempt(&known.spec.id));
        if known.is_none_or(|attempt| attempt < sandbox_attempt(&sandbox.spec.id)) {
            newest.insert(sandbox.spec.uid.clone(), sandbox.clone());
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeApi, FakeRuntime, TempDir};
    use pod_runtime::{SandboxNetwork, SandboxSpec};
    use serde_json::{Value, json};
    use tokio::task::JoinHandle;

    const WEB: &str = "/api/v1/namespaces/default/pods/web";

    struct Bench {
        api: FakeApi,
        runtime: Arc<FakeRuntime>,
        dir: TempDir,
        node_ends: CancellationToken,
    }

    impl Bench {
        fn new() -> Self {
            let (api, runtime, dir) = (FakeApi::default(), FakeRuntime::new(), TempDir::new());
            Bench { api, runtime, dir, node_ends: CancellationToken::new() }
        }

        fn agent(&self) -> (CancellationToken, JoinHandle<Result<(), Error>>) {
            let stop = CancellationToken::new();
            let config = Config::new("n1", vec!["172.30.0.11".parse().unwrap()], self.dir.path().to_owned());
            let ends = Stop { agent: stop.clone(), node: self.node_ends.clone() };
            let agent = run(self.api.client(), config, self.runtime.clone(), None, ends);
            (stop, tokio::spawn(agent))
        }

        fn pod(&self) {
            let object = json!({"metadata": {"namespace": "default"}, "spec": {"nodeName": "n1",
                "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent",
                    "readinessProbe": {"exec": {"command": ["true"]}}}]}});
            self.api.put(WEB, object);
        }
    }

    fn ready(pod: &Value) -> bool {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    #[tokio::test]
    async fn pods_that_ask_for_more_than_is_left_are_rejected_and_take_nothing() {
        let bench = Bench::new();
        let (stop, agent) = bench.agent();
        let pod = |name: &str, memory: u64| {
            let resources = json!({"requests": {"memory": memory.to_string()}});
            let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": "n1",
                "containers": [{"name": "m", "image": "app", "imagePullPolicy": "IfNotPresent",
                    "resources": resources}]}});
            let path = format!("/api/v1/namespaces/default/pods/{name}");
            bench.api.put(&path, object);
            path
        };
        let whole = Capacity::of_machine().memory_bytes;
        let huge = bench.api.until(&pod("huge", whole * 2), |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(huge["status"]["reason"], "OutOfmemory");
        bench.api.event("OutOfmemory", "Node didn't have enough resource: memory").await;
        let half = pod("half", whole / 2);
        bench.api.until(&half, ready).await;
        bench.api.until(&pod("more", whole / 3 * 2), |pod| pod["status"]["reason"] == "OutOfmemory").await;
        // What was admitted stays so.
        stop.cancel();
        agent.await.unwrap().unwrap();
        let (stop, agent) = bench.agent();
        bench.api.delete(&half, 1);
        bench.api.until(&half, Value::is_null).await;
        bench.api.until(&pod("again", whole / 3 * 2), ready).await;
        stop.cancel();
        agent.await.unwrap().unwrap();
    }

    async fn until_removed(runtime: &FakeRuntime, changes: &FakeApi) {
        // The runtime says nothing about removals: the object that vanishes last does.
        changes.until(WEB, Value::is_null).await;
        assert!(runtime.is_empty());
    }

    #[tokio::test]
    async fn a_pod_comes_by_the_watch_and_goes_by_it() {
        let bench = Bench::new();
        let (stop, agent) = bench.agent();
        bench.pod();
        bench.api.until(WEB, ready).await;
        bench.api.delete(WEB, 1);
        until_removed(&bench.runtime, &bench.api).await;
        stop.cancel();
        agent.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn containers_end_with_the_node_and_not_with_the_agent() {
        let bench = Bench::new();
        bench.pod();
        let (stop, agent) = bench.agent();
        bench.api.until(WEB, ready).await;
        stop.cancel();
        agent.await.unwrap().unwrap();
        let ends = |bench: &Bench| bench.runtime.calls().into_iter().filter(|call| call.starts_with("end ")).count();
        assert_eq!(ends(&bench), 0);
        let (stop, agent) = bench.agent();
        let second = "/api/v1/namespaces/default/pods/second";
        let container = json!({"name": "n", "image": "app", "imagePullPolicy": "IfNotPresent"});
        let spec = json!({"nodeName": "n1", "containers": [container]});
        bench.api.put(second, json!({"metadata": {"namespace": "default"}, "spec": spec}));
        // An agent that runs the second knows the first.
        bench.api.until(second, ready).await;
        bench.node_ends.cancel();
        stop.cancel();
        agent.await.unwrap().unwrap();
        assert_eq!(ends(&bench), 2, "{:?}", bench.runtime.calls());
        assert_eq!(bench.api.get(WEB).unwrap()["status"]["phase"], "Running", "it goes on with the node's next start");
    }

    #[tokio::test]
    async fn a_second_agent_takes_over_without_a_restart_and_removes_orphans() {
        let bench = Bench::new();
        bench.pod();
        let (stop, agent) = bench.agent();
        bench.api.until(WEB, ready).await;
        stop.cancel();
        agent.await.unwrap().unwrap();
        let before = bench.api.get(WEB).unwrap();
        let starts = bench.runtime.calls().len();
        let orphan = SandboxSpec {
            id: SandboxId("lost-0".into()),
            namespace: "default".into(),
            name: "lost".into(),
            uid: "lost".into(),
            hostname: "lost".into(),
            network: SandboxNetwork::Pod,
            of_node: Default::default(),
            host_ports: Vec::new(),
            sysctls: Default::default(),
            cpu_shares: None,
            annotations: Default::default(),
        };
        bench.runtime.run_sandbox(&orphan).await.unwrap();
        let (stop, agent) = bench.agent();
        let removed = async {
            while bench.runtime.sandboxes().await.unwrap().len() > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), removed).await.unwrap();
        bench.api.delete(WEB, 1);
        until_removed(&bench.runtime, &bench.api).await;
        stop.cancel();
        agent.await.unwrap().unwrap();
        assert!(ready(&before));
        let after = bench.runtime.calls().split_off(starts);
        assert!(!after.iter().any(|call| call.starts_with("start")), "{after:?}");
    }

    async fn ask(dir: &TempDir, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(dir.path().join("kubelet.sock")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn logs_and_pods_are_served_on_the_socket() {
        let bench = Bench::new();
        bench.pod();
        let (stop, agent) = bench.agent();
        bench.api.until(WEB, ready).await;
        let log = bench.runtime.spec_of("m").unwrap().log_path;
        assert!(ask(&bench.dir, "/containerLogs/default/web/m").await.contains("is waiting to start"));
        let line = |second: u32, text: &str| format!("2026-01-01T00:00:0{second}.000000000Z stdout F {text}\n");
        std::fs::write(&log, line(1, "first") + &line(2, "second")).unwrap();
        let answer = ask(&bench.dir, "/containerLogs/default/web/m?tailLines=1").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("second") && !answer.contains("first"),
            "{answer}"
        );
        let previous = ask(&bench.dir, "/containerLogs/default/web/m?previous=true").await;
        assert!(previous.starts_with("HTTP/1.1 400") && previous.contains("previous terminated container"));
        assert!(ask(&bench.dir, "/containerLogs/default/web/x").await.starts_with("HTTP/1.1 404"));
        assert!(ask(&bench.dir, "/containerLogs/default/web/m?tailLines=x").await.starts_with("HTTP/1.1 400"));
        assert!(ask(&bench.dir, "/pods").await.contains("\"name\":\"web\""));
        assert!(ask(&bench.dir, "/healthz").await.ends_with("ok"));
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(bench.dir.path().join("kubelet.sock")).await.unwrap();
        let request = "GET /containerLogs/default/web/m?follow=true HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("second") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        bench.api.delete(WEB, 1);
        until_removed(&bench.runtime, &bench.api).await;
        // It ends with the container.
        stream.read_to_end(&mut answer).await.unwrap();
        stop.cancel();
        agent.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_pod_removed_by_force_is_killed() {
        let bench = Bench::new();
        bench.pod();
        let (stop, agent) = bench.agent();
        bench.api.until(WEB, ready).await;
        bench.api.remove(WEB);
        let removed = async {
            while !bench.runtime.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), removed).await.unwrap();
        stop.cancel();
        agent.await.unwrap().unwrap();
    }
}
