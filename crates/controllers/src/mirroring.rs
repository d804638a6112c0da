//! Keeps slices that repeat hand-written Endpoints. Not responsible for what goes in them (crate `endpointslice`,
//! module `mirror`).

use endpointslice::labels::MIRRORING_CONTROLLER;
use endpointslice::mirror;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use runtime::{Key, Next, Objects, Reconcile, Recorder, WriteError};

use crate::cluster::{Cluster, mark_self};
use crate::endpoint_slice::{mark_services_of_slices, tell, write};

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue();
    mark_self(&cluster.services, &queue);
    mark_self(&cluster.endpoints, &queue);
    mark_services_of_slices(cluster, &queue, MIRRORING_CONTROLLER);
    let mirrors = Mirrors {
        services: cluster.services.clone(),
        endpoints: cluster.endpoints.clone(),
        slices: cluster.slices.clone(),
        recorder: cluster.recorder.clone(),
    };
    cluster.drive("endpoint-slice-mirroring", mirrors, queue, 4);
}

struct Mirrors {
    services: Objects<Service>,
    endpoints: Objects<Endpoints>,
    slices: Objects<EndpointSlice>,
    recorder: Recorder,
}

impl Reconcile for Mirrors {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let endpoints = self.endpoints.cache().get(key);
        let service = self.services.cache().get(key);
        let slices = self.slices.cache().in_namespace(&key.namespace, |_| true);
        let slices: Vec<&EndpointSlice> = slices.iter().map(|slice| &**slice).collect();
        let plan = mirror::plan(&key.namespace, &key.name, endpoints.as_deref(), service.as_deref(), &slices);
        if let Some(endpoints) = &endpoints {
            tell(&self.recorder, &**endpoints, &plan);
        }
        write(&self.slices, &plan).await?;
        Ok(Next::Wait)
    }
}
