//! The Node object and its Lease: made, kept alive, and asked for the pod CIDRs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::network::pod_cidrs;
use pod_runtime::PodRuntime;

/// The emulated version.
pub const KUBELET_VERSION: &str = "v1.36.3";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often an unchanged status is sent again.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(500);

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

impl Capacity {
    /// Of this machine.
    pub fn of_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
        Capacity { cpu_millis: cpus * 1000, memory_bytes: memory.unwrap_or(0) }
    }

    /// As the Node has it: all of it may be allocated to pods.
    pub fn resources(&self, config: &Config) -> BTreeMap<String, Quantity> {
        let amounts = [
            ("cpu", (self.cpu_millis / 1000).to_string()),
            ("memory", format!("{}Ki", self.memory_bytes / 1024)),
            ("pods", config.max_pods.to_string()),
        ];
        amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount))).into()
    }
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Keeps the node registered.
pub struct Registration {
    pub client: Client,
    pub config: Config,
    pub runtime: Arc<dyn PodRuntime>,
    pub clock: Clock,
    pub capacity: Capacity,
    /// Whether the disk is short.
    pub disk_pressure: watch::Receiver<bool>,
}

impl Registration {
    /// Makes the Node, hands out its pod CIDRs as soon as it has some, and beats until stopped.
    pub async fn run(self, cidrs: watch::Sender<Vec<IpNet>>, stop: CancellationToken) {
        let work = async {
            self.until_registered().await;
            tokio::join!(self.beat(), self.keep_status(&cidrs), self.watch_cidrs(&cidrs));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn until_registered(&self) {
        while let Err(error) = self.register().await {
            tracing::warn!(%error, "cannot register the node");
            tokio::time::sleep(RETRY).await;
        }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Makes the Node, or puts its labels right.
    async fn register(&self) -> Result<(), kube::Error> {
        let name = &self.config.node_name;
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels(&self.config)}});
        let patch = json!({"metadata": {"labels": labels(&self.config)}});
        match self.nodes().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
        match self.nodes().create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    async fn beat(&self) {
        loop {
            let pause = match self.renew().await {
                Ok(()) => HEARTBEAT,
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the node's Lease");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew(&self) -> Result<(), kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let name = &self.config.node_name;
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": self.clock.now().micro_time()});
        let patch = json!({"spec": spec});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        let lease = json!({"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, "spec": spec});
        let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &lease).await.map(drop)
    }

    /// Tells the node's state when it changes, and now and then.
    async fn keep_status(&self, cidrs: &watch::Sender<Vec<IpNet>>) {
        let (mut changes, mut pressure) = (cidrs.subscribe(), self.disk_pressure.clone());
        loop {
            let networked = !changes.borrow_and_update().is_empty();
            pressure.mark_unchanged();
            let runtime = self.runtime.sandboxes().await.map(drop).map_err(|error| error.to_string());
            let healthy = runtime.is_ok();
            let sent = self.send_status(networked, runtime).await;
            if let Err(error) = &sent {
                tracing::warn!(%error, "cannot report the node's status");
                if matches!(error, kube::Error::Api(status) if status.code == 404) {
                    self.until_registered().await;
                }
            }
            let pause = if sent.is_err() {
                RETRY
            } else if healthy {
                STATUS_PERIOD
            } else {
                HEARTBEAT
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = pressure.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn send_status(&self, networked: bool, runtime: Result<(), String>) -> Result<(), kube::Error> {
        let name = &self.config.node_name;
        let known = self.nodes().get(name).await?;
        let images = self.runtime.images().await.unwrap_or_default();
        let images: Vec<Value> =
            images.iter().take(50).map(|image| json!({"names": image.tags, "sizeBytes": image.size_bytes})).collect();
        let resources = self.capacity.resources(&self.config);
        let mut addresses: Vec<Value> =
            self.config.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        let status = json!({
            "addresses": addresses,
            "capacity": resources,
            "allocatable": resources,
            "images": images,
            "nodeInfo": self.node_info(),
            "conditions": self.conditions(&known, networked, runtime),
        });
        let patch = json!({"status": status});
        self.nodes().patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    fn node_info(&self) -> Value {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os = read("/etc/os-release");
        let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
        json!({
            "architecture": architecture(),
            "operatingSystem": "linux",
            "osImage": pretty,
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": self.config.container_runtime,
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
        })
    }

    fn conditions(&self, known: &Node, networked: bool, runtime: Result<(), String>) -> Vec<Value> {
        let ready = match (&runtime, networked) {
            (Err(error), _) => (false, "KubeletNotReady", format!("container runtime is down: {error}")),
            (Ok(()), false) => (false, "KubeletNotReady", "the node has no pod CIDR yet".to_owned()),
            (Ok(()), true) => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        };
        let disk = if *self.disk_pressure.borrow() {
            ("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure".to_owned())
        } else {
            ("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned())
        };
        let table = [
            (
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available".to_owned(),
            ),
            disk,
            ("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
            ("Ready", ready.0, ready.1, ready.2),
        ];
        let now = self.clock.now().time();
        let before = known.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let before: BTreeMap<&str, _> = before.map(|condition| (condition.type_.as_str(), condition)).collect();
        let ours = table.iter().map(|(name, value, reason, message)| {
            let status = if *value { "True" } else { "False" };
            let since = before.get(name).filter(|known| known.status == status);
            let since = since.and_then(|known| known.last_transition_time.clone()).unwrap_or_else(|| now.clone());
            json!({"type": name, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": since})
        });
        // Others' conditions stay.
        let others = before.values().filter(|known| !table.iter().any(|(name, ..)| *name == known.type_));
        others.map(|known| json!(known)).chain(ours).collect()
    }

    async fn watch_cidrs(&self, cidrs: &watch::Sender<Vec<IpNet>>) {
        let fields = format!("metadata.name={}", self.config.node_name);
        let config = watcher::Config::default().fields(&fields);
        let mut events = watcher(self.nodes(), config).backoff(runtime::backoff::watching()).applied_objects().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(node) if node.name_any() == self.config.node_name => {
                    let found = pod_cidrs(&node);
                    cidrs.send_if_modified(|known| {
                        // Set once: pods have addresses of it.
                        let changed = known.is_empty() && !found.is_empty();
                        if changed {
                            known.clone_from(&found);
                        }
                        changed
                    });
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "watching the node's own object"),
            }
        }
    }
}

/// Go's name of the architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Those every node has, and those of its configuration.
fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    let arch = architecture();
    for (key, value) in [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeApi, FakeRuntime};

    const NODE: &str = "/api/v1/nodes/n1";

    fn registration(api: &FakeApi, disk_pressure: watch::Receiver<bool>) -> Registration {
        let mut config = Config::new("n1", vec!["172.30.0.11".parse().unwrap()], "/nonexistent".into());
        config.labels.insert("topology.kubernetes.io/zone".into(), "a".into());
        Registration {
            client: api.client(),
            config,
            runtime: FakeRuntime::new(),
            clock: Clock::start(),
            capacity: Capacity { cpu_millis: 2000, memory_bytes: 1 << 30 },
            disk_pressure,
        }
    }

    fn ready(node: &Value) -> bool {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    #[tokio::test]
    async fn a_node_registers_and_is_ready_with_its_pod_cidr() {
        let (api, stop) = (FakeApi::default(), CancellationToken::new());
        let (cidrs, mut told) = watch::channel(Vec::new());
        let (pressure, pressed) = watch::channel(false);
        let task = tokio::spawn(registration(&api, pressed).run(cidrs, stop.clone()));
        let mut node = api.until(NODE, |node| !node["status"]["conditions"].is_null()).await;
        assert!(!ready(&node));
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
        assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "a");
        assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.3");
        assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "172.30.0.11"}));
        node["spec"] = json!({"podCIDR": "10.244.4.0/24", "podCIDRs": ["10.244.4.0/24"]});
        api.put(NODE, node);
        api.until(NODE, ready).await;
        let cidr: IpNet = "10.244.4.0/24".parse().unwrap();
        assert_eq!(*told.wait_for(|cidrs| !cidrs.is_empty()).await.unwrap(), [cidr]);
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        let lease = api.until(lease, |lease| !lease.is_null()).await;
        assert_eq!(lease["spec"]["holderIdentity"], "n1");
        for (short, status) in [(true, "True"), (false, "False")] {
            pressure.send_replace(short);
            let says = |node: &Value| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions.filter(|condition| condition["type"] == "DiskPressure").any(|c| c["status"] == status)
            };
            api.until(NODE, says).await;
        }
        stop.cancel();
        task.await.unwrap();
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(mem_total("MemTotal:        1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
        assert_eq!(mem_total("nothing"), None);
    }
}
