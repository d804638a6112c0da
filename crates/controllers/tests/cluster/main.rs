//! All controllers together, over a real API server in this process and a stand-in for the node agents. Not
//! responsible for what runs on nodes.

mod api;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{Api, World};
use controllers::{Config, Controllers};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use runtime::{Deletion, Informer, Key, Next, Objects, Queue, Readiness, Reconcile, Tasks, WriteError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Runs every bound pod at once, and ends every deleted one.
struct Agents {
    pods: Objects<Pod>,
    count: AtomicUsize,
}

impl Reconcile for Agents {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(pod) = self.pods.cache().get(key) else { return Ok(Next::Wait) };
        if pod.metadata.deletion_timestamp.is_some() {
            self.pods.delete_with(&*pod, Deletion::Background, Some(0)).await?;
        } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
            && pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none())
        {
            let number = self.count.fetch_add(1, Ordering::Relaxed);
            let ip = format!("10.244.0.{}", number + 2);
            let ready = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z" }]);
            let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": ready });
            self.pods.patch_status(key, &json!({ "status": status })).await?;
        }
        Ok(Next::Wait)
    }
}

struct Cluster {
    api: Arc<Api>,
    client: Client,
    agents: Tasks,
    controllers: Option<Controllers>,
}

impl Cluster {
    async fn start() -> Self {
        let api = Api::start().await;
        let client = api.client();
        let cluster = Self { agents: agents(&client), controllers: Some(control(&client)), client, api };
        cluster.create("", "namespaces", json!({ "metadata": { "name": "shop" } })).await;
        for name in ["n1", "n2"] {
            let status = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
            cluster.create("", "nodes", json!({ "metadata": { "name": name } })).await;
            cluster.send("PATCH", "", "nodes", &format!("{name}/status"), json!({ "status": status })).await;
        }
        cluster.controllers.as_ref().expect("running").readiness().wait().await;
        cluster
    }

    async fn create(&self, namespace: &str, resource: &str, object: Value) {
        self.send("POST", namespace, resource, "", object).await;
    }

    async fn send(&self, method: &str, namespace: &str, resource: &str, name: &str, body: Value) {
        let group = match resource {
            "deployments" | "replicasets" => "/apis/apps/v1",
            "servicecidrs" => "/apis/networking.k8s.io/v1",
            _ => "/api/v1",
        };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        let namespace = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let request = http::Request::builder().method(method).uri(format!("{group}{namespace}/{resource}{name}"));
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = request.header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        self.client.request::<Value>(request).await.expect("the API takes it");
    }

    async fn deploy(&self) {
        self.create("shop", "deployments", json!({ "metadata": { "name": "web" }, "spec": {
            "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [container("v1")] } } } })).await;
        self.create(
            "shop",
            "services",
            json!({ "metadata": { "name": "web" }, "spec": {
            "selector": { "app": "web" }, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
            "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }] } }),
        )
        .await;
        self.api.wait("3 ready endpoints", |api| ready(api) == 3).await;
        self.api
            .wait("a complete deployment", |api| {
                api.list("deployments")
                    .iter()
                    .all(|d| d["status"]["availableReplicas"] == 3 && progressing(d) == "NewReplicaSetAvailable")
            })
            .await;
    }

    async fn stop_controllers(&mut self) {
        self.controllers.take().expect("running").stop().await.expect("controllers end cleanly");
    }

    async fn stop(mut self) {
        self.stop_controllers().await;
        self.agents.stop().await.expect("agents end cleanly");
    }
}

fn container(image: &str) -> Value {
    json!({ "name": "c", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] })
}

fn control(client: &Client) -> Controllers {
    let config = Config {
        root_ca: "PEM".into(),
        cluster_cidr_v4: "10.244.0.0/16".parse().ok(),
        node_quarantine: Duration::ZERO,
        ..Config::default()
    };
    controllers::start(client.clone(), config, &CancellationToken::new())
}

fn agents(client: &Client) -> Tasks {
    let mut tasks = Tasks::new(&CancellationToken::new());
    let informer = Informer::<Pod>::new(client.clone());
    let (pods, queue) =
        (Objects::new(client.clone(), informer.cache(), "agent"), Arc::new(Queue::new(runtime::Backoff::default())));
    let marks = queue.clone();
    informer.cache().on_change(move |change| {
        if let Some(pod) = &change.new {
            marks.add(Key::of(&pod.metadata));
        }
    });
    let cache = informer.cache();
    let driver = runtime::Driver::new("agents", Agents { pods, count: AtomicUsize::new(0) }, queue);
    let gate = Readiness::default().gate("agents");
    let token = tasks.token();
    tasks.spawn("watch", informer.run(tasks.token()));
    tasks.spawn("agents", async move { driver.run(async move { cache.synced().await }, gate, token).await });
    tasks
}

fn endpoints(api: &World) -> Vec<Value> {
    let slices = api.list("endpointslices");
    slices.iter().flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default()).collect()
}

fn ready(api: &World) -> usize {
    endpoints(api).iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

fn progressing(deployment: &Value) -> &str {
    let conditions = deployment["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|c| c["type"] == "Progressing").and_then(|c| c["reason"].as_str()).unwrap_or_default()
}

fn names<'a>(objects: &[&'a Value]) -> Vec<&'a str> {
    objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_endpoints_and_restarted_controllers_write_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.deploy().await;
    let world = cluster.api.world().await;
    let pods = world.list("pods");
    assert_eq!(pods.len(), 3, "no pod too many: {:?}", names(&pods));
    assert!(pods.iter().all(|pod| !pod["spec"]["nodeName"].is_null()));
    let metadata = &world.list("deployments")[0]["metadata"];
    assert_eq!(metadata["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(metadata["generation"], 1, "what the controller notes is no change of what was asked for");
    let mut ranges: Vec<&str> =
        world.list("nodes").iter().filter_map(|node| node["spec"]["podCIDR"].as_str()).collect();
    ranges.sort_unstable();
    assert_eq!(ranges, ["10.244.0.0/24", "10.244.1.0/24"]);
    assert_eq!(names(&world.list("serviceaccounts")), ["default"]);
    assert_eq!(world.list("configmaps")[0]["data"]["ca.crt"], "PEM");
    cluster
        .api
        .wait("legacy endpoints", |api| {
            api.list("endpoints").iter().any(|e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 3))
        })
        .await;

    cluster.stop_controllers().await;
    let before = cluster.api.writes();
    let again = control(&cluster.client);
    again.readiness().wait().await;
    // A namespace's account is made by the same controllers: when it is there, they have worked through their queues.
    cluster.send_marker().await;
    again.stop().await.expect("a clean end");
    let after = cluster.api.writes();
    let of_the_marker = |write: &str| write == "POST /api/v1/namespaces" || write.contains("marker");
    let new: Vec<&String> = after[before.len()..].iter().filter(|write| !of_the_marker(write)).collect();
    assert_eq!(new, Vec::<&String>::new(), "a second run writes nothing");
    cluster.agents.stop().await.expect("a clean end");
}

impl Cluster {
    async fn send_marker(&self) {
        self.create("", "namespaces", json!({ "metadata": { "name": "marker" } })).await;
        self.api
            .wait("the marker's account", |world| {
                world.has("configmaps", "marker", "kube-root-ca.crt")
                    && world.has("serviceaccounts", "marker", "default")
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_scaling_and_deleting_are_followed_to_the_end() {
    let cluster = Cluster::start().await;
    cluster.deploy().await;
    let patch = json!({ "spec": { "replicas": 5, "template": { "spec": { "containers": [container("v2")] } } } });
    cluster.send("PATCH", "shop", "deployments", "web", patch).await;
    cluster
        .api
        .wait("5 pods of v2 only", |api| {
            let pods = api.list("pods");
            pods.len() == 5 && pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "v2")
        })
        .await;
    cluster.api.wait("5 ready endpoints", |api| ready(api) == 5 && endpoints(api).len() == 5).await;

    cluster.send("DELETE", "shop", "deployments", "web", json!({ "propagationPolicy": "Foreground" })).await;
    cluster
        .api
        .wait("nothing left", |api| ["deployments", "replicasets", "pods"].iter().all(|r| api.list(r).is_empty()))
        .await;
    cluster.send("DELETE", "shop", "services", "web", json!({})).await;
    cluster
        .api
        .wait("no slices left", |api| api.list("endpointslices").is_empty() && api.list("endpoints").is_empty())
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_takes_everything_with_it() {
    let cluster = Cluster::start().await;
    cluster.deploy().await;
    cluster.send("DELETE", "", "namespaces", "shop", json!({})).await;
    cluster.api.wait("no namespace", |world| !names(&world.list("namespaces")).contains(&"shop")).await;
    let world = cluster.api.world().await;
    for resource in ["deployments", "replicasets", "pods", "services", "endpointslices", "serviceaccounts"] {
        assert!(world.list(resource).is_empty(), "{resource} are left");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cant_be_deleted_keeps_no_other() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.create("shop", "configmaps", json!({ "metadata": { "name": name } })).await;
    }
    cluster.create("shop", "services", json!({ "metadata": { "name": "web" }, "spec": { "clusterIP": "None" } })).await;
    cluster.api.refuse("DELETE /api/v1/namespaces/shop/configmaps/a");
    cluster.send("DELETE", "", "namespaces", "shop", json!({})).await;
    cluster
        .api
        .wait("all but the one", |world| names(&world.list("configmaps")) == ["a"] && world.list("services").is_empty())
        .await;
    assert!(names(&cluster.api.world().await.list("namespaces")).contains(&"shop"));
    cluster.api.refuse("");
    cluster.api.wait("no namespace", |world| !names(&world.list("namespaces")).contains(&"shop")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_of_a_pod_is_one_write_of_its_slice() {
    let cluster = Cluster::start().await;
    cluster.deploy().await;
    let slices = |api: &Api| api.writes().iter().filter(|write| write.contains("endpointslices")).count();
    let before = slices(&cluster.api);
    let pod = cluster.api.world().await.list("pods")[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let conditions = json!([{ "type": "Ready", "status": "False" }]);
    cluster
        .send("PATCH", "shop", "pods", &format!("{pod}/status"), json!({ "status": { "conditions": conditions } }))
        .await;
    cluster.api.wait("2 ready endpoints", |api| ready(api) == 2).await;
    assert_eq!(slices(&cluster.api) - before, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_deleted_node_are_replaced() {
    let cluster = Cluster::start().await;
    cluster.deploy().await;
    let on =
        |world: &World, node: &str| world.list("pods").iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    assert!(on(&cluster.api.world().await, "n1") > 0, "pods are spread over the nodes");
    cluster.send("DELETE", "", "nodes", "n1", json!({})).await;
    cluster.api.wait("all three pods on the other node", |world| on(world, "n1") == 0 && on(world, "n2") == 3).await;
    cluster.api.wait("3 ready endpoints", |world| ready(world) == 3 && endpoints(world).len() == 3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_with_a_taint_that_they_dont_tolerate() {
    let cluster = Cluster::start().await;
    cluster.deploy().await;
    let on =
        |world: &World, node: &str| world.list("pods").iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    assert!(on(&cluster.api.world().await, "n1") > 0, "pods are spread over the nodes");
    let taint = json!({ "key": "example.com/broken", "effect": "NoExecute" });
    cluster.send("PATCH", "", "nodes", "n1", json!({ "spec": { "taints": [taint] } })).await;
    cluster.api.wait("all three pods on the other node", |world| on(world, "n1") == 0 && on(world, "n2") == 3).await;
    let told = |event: &&Value| event["reason"] == "TaintManagerEviction";
    cluster.api.wait("an event", |world| world.list("events").iter().any(told)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_garbage_collector_keeps_what_it_cant_judge_and_collects_what_is_owned_from_elsewhere() {
    let cluster = Cluster::start().await;
    let owner = |world: &World| {
        let owner = world.list("configmaps").into_iter().find(|map| map["metadata"]["name"] == "owner")?;
        let uid = owner["metadata"]["uid"].clone();
        Some(json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }))
    };
    cluster.create("shop", "configmaps", json!({ "metadata": { "name": "owner" } })).await;
    let owner = owner(&cluster.api.world().await).expect("the owner");
    let owned = |name: &str| json!({ "metadata": { "name": name, "ownerReferences": [owner] } });
    cluster.create("", "namespaces", owned("kept")).await;
    cluster.create("default", "configmaps", owned("strayed")).await;
    cluster.create("shop", "configmaps", owned("child")).await;
    cluster.api.wait("the collection", |world| !world.has("configmaps", "default", "strayed")).await;
    let about = |world: &World, name: &str| world.has_event("OwnerRefInvalidNamespace", name);
    cluster.api.wait("events", |world| about(world, "strayed") && about(world, "kept")).await;
    let world = cluster.api.world().await;
    assert!(world.has("configmaps", "shop", "child"));
    let kept = world.list("namespaces").into_iter().find(|namespace| namespace["metadata"]["name"] == "kept");
    assert!(kept.expect("the namespace")["metadata"]["deletionTimestamp"].is_null());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_range_in_use_stays() {
    let cluster = Cluster::start().await;
    let range = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.97.0.0/24"] } });
    cluster.create("", "servicecidrs", range).await;
    let ready = |world: &World, wanted: &str| {
        let range = world.list("servicecidrs").into_iter().find(|range| range["metadata"]["name"] == "more");
        range.is_some_and(|range| {
            range["status"]["conditions"][0]["status"] == wanted && !range["metadata"]["finalizers"].is_null()
        })
    };
    cluster.api.wait("a ready range", |world| ready(world, "True")).await;
    let spec = json!({ "clusterIP": "10.97.0.9", "ports": [{ "port": 80 }] });
    cluster.create("shop", "services", json!({ "metadata": { "name": "web" }, "spec": spec })).await;
    cluster.send("DELETE", "", "servicecidrs", "more", json!({})).await;
    cluster.api.wait("a range that waits for its addresses", |world| ready(world, "False")).await;
    cluster.stop().await;
}
