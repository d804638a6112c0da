//! What the controllers share: one watch per kind, the configuration, the event recorder. Not responsible for any
//! decision.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use runtime::{Backoff, Cache, Driver, Informer, Key, Objects, Queue, Readiness, Reconcile, Recorder, Tasks};
use tokio_util::sync::CancellationToken;

use crate::Config;

/// The name under which our writes appear in managedFields.
const MANAGER: &str = "portolan-controllers";
/// The ConfigMap of every namespace that lets pods verify the API server.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const LEASES: &str = "kube-node-lease";

type Task = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;
/// A driver that starts once the caches are in step.
type Drive = Box<dyn FnOnce(Synced, CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;
type Synced = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Caches, writers and tasks on their way to being started.
pub struct Cluster {
    pub client: Client,
    pub config: Arc<Config>,
    pub recorder: Recorder,
    pub namespaces: Objects<Namespace>,
    pub nodes: Objects<Node>,
    pub leases: Objects<Lease>,
    pub pods: Objects<Pod>,
    pub services: Objects<Service>,
    pub slices: Objects<EndpointSlice>,
    pub endpoints: Objects<Endpoints>,
    pub deployments: Objects<Deployment>,
    pub replica_sets: Objects<ReplicaSet>,
    pub service_accounts: Objects<ServiceAccount>,
    /// Only those called [`ROOT_CA`].
    pub root_cas: Objects<ConfigMap>,
    readiness: Readiness,
    watches: Watches,
    drivers: Vec<(&'static str, Drive)>,
}

impl Cluster {
    pub fn new(client: Client, config: Config, recorder: Recorder, readiness: Readiness) -> Self {
        let mut watches = Watches { client: client.clone(), informers: Vec::new(), synced: Vec::new() };
        let root_ca = watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}"));
        let leases = Api::namespaced(client.clone(), LEASES);
        Self {
            namespaces: watches.all("namespaces"),
            nodes: watches.all("nodes"),
            leases: watches.add("leases", Informer::over(leases, watcher::Config::default())),
            pods: watches.all("pods"),
            services: watches.all("services"),
            slices: watches.all("endpointslices"),
            endpoints: watches.all("endpoints"),
            deployments: watches.all("deployments"),
            replica_sets: watches.all("replicasets"),
            service_accounts: watches.all("serviceaccounts"),
            root_cas: watches.add("configmaps", Informer::over(Api::all(client.clone()), root_ca)),
            client,
            config: Arc::new(config),
            recorder,
            readiness,
            watches,
            drivers: Vec::new(),
        }
    }

    /// A queue for a controller's keys.
    pub fn queue<K: Clone + std::fmt::Debug + Ord + std::hash::Hash>(&self) -> Arc<Queue<K>> {
        Arc::new(Queue::new(Backoff::default()))
    }

    /// Runs `reconciler` over `queue` once every cache is in step.
    pub fn drive<R: Reconcile>(
        &mut self,
        name: &'static str,
        reconciler: R,
        queue: Arc<Queue<R::Key>>,
        workers: usize,
    ) {
        let driver = Driver::new(name, reconciler, queue).workers(workers);
        let gate = self.readiness.gate(name);
        self.drivers.push((
            name,
            Box::new(move |synced, token| Box::pin(async move { driver.run(synced(), gate, token).await })),
        ));
    }

    /// Adds a watch of a kind that no other controller needs.
    pub fn watch<K>(&mut self, name: &'static str, informer: Informer<K>) -> Arc<Cache<K>>
    where
        K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
        K::DynamicType: Clone,
    {
        self.watches.watch(name, informer)
    }

    /// As `watch`, for a kind that is written as well.
    pub fn objects<K>(&mut self, name: &'static str) -> Objects<K>
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize,
        K: std::fmt::Debug + Send + Sync + 'static,
    {
        self.watches.all(name)
    }

    /// Spawns every watch and driver.
    pub fn spawn(self, tasks: &mut Tasks) {
        for (name, run) in self.watches.informers {
            tasks.spawn(format!("watch {name}"), run(tasks.token()));
        }
        let waits = self.watches.synced;
        let synced: Synced = Arc::new(move || {
            let waits = waits.clone();
            Box::pin(async move {
                join_all(waits.iter().map(|wait| wait())).await;
            })
        });
        for (name, run) in self.drivers {
            tasks.spawn(name, run(synced.clone(), tasks.token()));
        }
    }
}

struct Watches {
    client: Client,
    informers: Vec<(&'static str, Task)>,
    synced: Vec<Synced>,
}

impl Watches {
    fn all<K>(&mut self, name: &'static str) -> Objects<K>
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize,
        K: std::fmt::Debug + Send + Sync + 'static,
    {
        let informer = Informer::new(self.client.clone());
        self.add(name, informer)
    }

    fn add<K>(&mut self, name: &'static str, informer: Informer<K>) -> Objects<K>
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize,
        K: std::fmt::Debug + Send + Sync + 'static,
    {
        let client = self.client.clone();
        Objects::new(client, self.watch(name, informer), MANAGER)
    }

    fn watch<K>(&mut self, name: &'static str, informer: Informer<K>) -> Arc<Cache<K>>
    where
        K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
        K::DynamicType: Clone,
    {
        let cache = informer.cache();
        self.informers.push((name, Box::new(move |token| Box::pin(informer.run(token)))));
        let waiting = cache.clone();
        self.synced.push(Arc::new(move || {
            let cache = waiting.clone();
            Box::pin(async move { cache.synced().await })
        }));
        cache
    }
}

/// Marks the key of every object that changes.
pub fn mark_self<K>(objects: &Objects<K>, queue: &Arc<Queue<Key>>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let queue = queue.clone();
    objects.cache().on_change(move |change| {
        if let Some(object) = change.latest() {
            queue.add(Key::of(object.meta()));
        }
    });
}
