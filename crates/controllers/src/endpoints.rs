//! Keeps the legacy v1 Endpoints of Services with a selector. Not responsible for what goes in them (crate
//! `endpointslice`, module `legacy`).

use std::sync::{Mutex, PoisonError};

use endpointslice::labels::{self, ENDPOINTS_CONTROLLER, ENDPOINTS_MANAGED_BY};
use endpointslice::legacy::{self, EndpointsPlan};
use endpointslice::{Options, TriggerTimes, service};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use runtime::{Deletion, Key, Next, Objects, Reconcile, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::endpoint_slice::mark_services_of_pods;

pub fn start(cluster: &mut Cluster) {
    if !cluster.config.endpoints {
        return;
    }
    let queue = cluster.queue();
    mark_self(&cluster.services, &queue);
    mark_services_of_pods(cluster, &queue);
    let (services, marks) = (cluster.services.clone(), queue.clone());
    cluster.endpoints.cache().on_change(move |change| {
        // Endpoints may be written before their Service: without one, only what we made is looked at.
        let Some(latest) = change.latest() else { return };
        let key = Key::of(&latest.metadata);
        let ours = labels::has(&latest.metadata, ENDPOINTS_MANAGED_BY, ENDPOINTS_CONTROLLER);
        if ours || services.cache().get(&key).is_some() {
            marks.add(key);
        }
    });
    let endpoints = Legacy {
        services: cluster.services.clone(),
        pods: cluster.pods.clone(),
        endpoints: cluster.endpoints.clone(),
        triggers: Mutex::default(),
    };
    cluster.drive("endpoints", endpoints, queue, 8);
}

struct Legacy {
    services: Objects<Service>,
    pods: Objects<Pod>,
    endpoints: Objects<Endpoints>,
    triggers: Mutex<TriggerTimes>,
}

impl Reconcile for Legacy {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let owner = self.services.cache().get(key);
        let selects = |pod: &Pod| owner.as_ref().is_some_and(|owner| service::selects(owner, &pod.metadata));
        let pods = self.pods.cache().in_namespace(&key.namespace, selects);
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
        let trigger = {
            let mut triggers = self.triggers.lock().unwrap_or_else(PoisonError::into_inner);
            match &owner {
                Some(owner) => triggers.look(owner, &pods),
                None => {
                    triggers.forget(&key.namespace, &key.name);
                    None
                }
            }
        };
        let existing = self.endpoints.cache().get(key);
        let options = Options { trigger, ..Options::default() };
        let written = match legacy::plan(owner.as_deref(), &pods, existing.as_deref(), &options) {
            EndpointsPlan::Keep => Ok(()),
            EndpointsPlan::Create(endpoints) => self.endpoints.create(&endpoints).await.map(drop),
            EndpointsPlan::Update(endpoints) => self.endpoints.replace(&endpoints).await.map(drop),
            EndpointsPlan::Delete => match existing {
                Some(existing) => self.endpoints.delete(&*existing, Deletion::Background).await,
                None => Ok(()),
            },
        };
        match written {
            Err(error) if !error.namespace_terminating() => Err(error),
            _ => Ok(Next::Wait),
        }
    }
}
