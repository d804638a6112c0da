//! Keeps the slices of Services with a selector. Not responsible for what goes in them (crate `endpointslice`).

use std::sync::{Arc, Mutex, PoisonError};

use endpointslice::labels::{CONTROLLER, MANAGED_BY, SERVICE_NAME};
use endpointslice::{Options, SlicePlan, Topology, TriggerTimes, hints, service};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use runtime::{Cache, Change, Deletion, Key, Next, Note, Objects, Queue, Reconcile, Recorder, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::conditions;

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue();
    mark_self(&cluster.services, &queue);
    mark_services_of_pods(cluster, &queue);
    mark_services_of_nodes(cluster, &queue);
    mark_services_of_slices(cluster, &queue, CONTROLLER);
    let slices = Slices {
        services: cluster.services.clone(),
        pods: cluster.pods.clone(),
        nodes: cluster.nodes.clone(),
        slices: cluster.slices.clone(),
        recorder: cluster.recorder.clone(),
        max_endpoints: cluster.config.max_endpoints_per_slice,
        topology: Mutex::default(),
        triggers: Mutex::default(),
    };
    cluster.drive("endpoint-slice", slices, queue, 8);
}

/// Why a Service's slices are not yet as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("pods run on nodes that are not known yet: {0:?}")]
    UnknownNodes(Vec<String>),
}

struct Slices {
    services: Objects<Service>,
    pods: Objects<Pod>,
    nodes: Objects<Node>,
    slices: Objects<EndpointSlice>,
    recorder: Recorder,
    max_endpoints: usize,
    /// Made anew when the nodes have changed.
    topology: Mutex<Option<(u64, Arc<Topology>)>>,
    triggers: Mutex<TriggerTimes>,
}

impl Slices {
    fn topology(&self) -> Arc<Topology> {
        let nodes = self.nodes.cache();
        let generation = nodes.generation();
        let mut held = self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, topology)) = &*held
            && *made == generation
        {
            return topology.clone();
        }
        let nodes = nodes.all();
        let topology = Arc::new(Topology::new(nodes.iter().map(|node| &**node)));
        *held = Some((generation, topology.clone()));
        topology
    }
}

impl Reconcile for Slices {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(owner) = self.services.cache().get(key) else {
            self.triggers.lock().unwrap_or_else(PoisonError::into_inner).forget(&key.namespace, &key.name);
            return Ok(Next::Wait);
        };
        let pods = self.pods.cache().in_namespace(&key.namespace, |pod| service::selects(&owner, &pod.metadata));
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let named = |slice: &EndpointSlice| slice.labels().get(SERVICE_NAME) == Some(&key.name);
        let slices = self.slices.cache().in_namespace(&key.namespace, named);
        let slices: Vec<&EndpointSlice> = slices.iter().map(|slice| &**slice).collect();
        let trigger = self.triggers.lock().unwrap_or_else(PoisonError::into_inner).look(&owner, &pods);
        let options = Options { max_endpoints: self.max_endpoints, trigger };
        let plan = endpointslice::plan(&owner, &pods, &self.topology(), &slices, &options);
        tell(&self.recorder, &*owner, &plan);
        write(&self.slices, &plan).await?;
        if plan.unknown_nodes.is_empty() { Ok(Next::Wait) } else { Err(Error::UnknownNodes(plan.unknown_nodes)) }
    }
}

/// Publishes what a plan has to say about `owner`.
pub fn tell<K: kube::Resource<DynamicType = ()>>(recorder: &Recorder, owner: &K, plan: &SlicePlan) {
    for notice in &plan.notices {
        recorder.publish(Note::warning(owner, notice.reason(), notice.to_string()));
    }
}

/// Executes a plan: creates, then updates, then deletes, so that no endpoint is missing in between.
pub async fn write(slices: &Objects<EndpointSlice>, plan: &SlicePlan) -> Result<(), WriteError> {
    let created = try_join_all(plan.create.iter().map(|slice| slices.create(slice))).await;
    match created {
        // Nothing can be made here any more, and nothing needs to be.
        Err(error) if error.namespace_terminating() => return Ok(()),
        created => created.map(drop)?,
    }
    try_join_all(plan.update.iter().map(|slice| slices.replace(slice))).await?;
    try_join_all(plan.delete.iter().map(|slice| slices.delete(slice, Deletion::Background))).await?;
    Ok(())
}

/// Marks the Services that select a pod before or after a change that endpoints can see.
pub fn mark_services_of_pods(cluster: &Cluster, queue: &Arc<Queue<Key>>) {
    let (services, queue) = (cluster.services.clone(), queue.clone());
    cluster.pods.cache().on_change(move |change| {
        if !is_visible(change) {
            return;
        }
        for pod in change.both() {
            mark_selecting(services.cache(), pod, &queue);
        }
    });
}

fn mark_selecting(services: &Cache<Service>, pod: &Pod, queue: &Queue<Key>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for service in services.in_namespace(namespace, |service| service::selects(service, &pod.metadata)) {
        queue.add(Key::of(&service.metadata));
    }
}

/// Whether endpoints could differ after this change.
fn is_visible(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let seen = |pod: &Pod| {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        (
            pod.metadata.deletion_timestamp.is_some(),
            pod.metadata.labels.clone(),
            pod.metadata.uid.clone(),
            (conditions::is_ready(pod), conditions::is_terminal(pod)),
            status.and_then(|status| status.pod_ips.clone()),
            status.and_then(|status| status.pod_ip.clone()),
            spec.map(|spec| (spec.node_name.clone(), spec.hostname.clone(), spec.subdomain.clone())),
        )
    };
    seen(old) != seen(new)
}

/// Marks the Services with pods on a node that appears or moves to another zone, and those that share traffic by
/// capacity when capacity changes.
fn mark_services_of_nodes(cluster: &Cluster, queue: &Arc<Queue<Key>>) {
    let (services, pods, queue) = (cluster.services.clone(), cluster.pods.clone(), queue.clone());
    cluster.nodes.cache().on_change(move |change| {
        let topology = |node: &Option<Arc<Node>>| Topology::new(node.as_deref());
        let (old, new) = (topology(&change.old), topology(&change.new));
        if old == new {
            return;
        }
        let name = change.latest().map(|node| node.name_any()).unwrap_or_default();
        if old.knows(&name) != new.knows(&name) || old.zone(&name) != new.zone(&name) {
            let here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name.as_str());
            pods.cache()
                .all()
                .iter()
                .filter(|pod| here(pod))
                .for_each(|pod| mark_selecting(services.cache(), pod, &queue));
        }
        let auto = |service: &Service| hints::distribution(service) == hints::Distribution::Auto;
        for service in services.cache().all().iter().filter(|service| auto(service)) {
            queue.add(Key::of(&service.metadata));
        }
    });
}

/// Marks the Service of every slice kept by `manager`, also of one that is no longer labelled so.
pub fn mark_services_of_slices(cluster: &Cluster, queue: &Arc<Queue<Key>>, manager: &'static str) {
    let queue = queue.clone();
    cluster.slices.cache().on_change(move |change| {
        for slice in change.both().filter(|slice| slice.labels().get(MANAGED_BY).is_some_and(|by| by == manager)) {
            if let Some(name) = slice.labels().get(SERVICE_NAME) {
                queue.add(Key::new(slice.namespace().unwrap_or_default(), name));
            }
        }
    });
}
