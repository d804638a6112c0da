//! What all workers of a node have in common, and the questions they ask with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use kube::api::Api;
use kube::runtime::reflector::Store;
use pod_runtime::{PodRuntime, SandboxStatus};
use tokio::sync::Semaphore;

use super::spec;
use crate::clock::Clock;
use crate::config::Config;
use crate::container::{Facts, Sources};
use crate::events::Events;
use crate::source_watch::SourceWatch;

/// What all workers of a node have in common.
pub struct Shared {
    pub client: kube::Client,
    pub config: Config,
    pub runtime: Arc<dyn PodRuntime>,
    pub clock: Clock,
    pub events: Events,
    pub source_watch: SourceWatch,
    /// All Services, for environments.
    pub services: Store<Service>,
    /// How many images are pulled at a time.
    pub pulls: Semaphore,
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

impl Shared {
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            node_name: &self.config.node_name,
            node_ips: &self.config.node_ips,
            pod_ips: &[],
            services: &[],
            node_cpu_millis: self.cpu_millis,
            node_memory_bytes: self.memory_bytes,
        }
    }

    /// This node's object, if it can be read.
    pub async fn node(&self) -> Option<Node> {
        let found = Api::<Node>::all(self.client.clone()).get(&self.config.node_name).await;
        found
            .inspect_err(|error| tracing::warn!(%error, "cannot read the node's labels: nobody is refused by them"))
            .ok()
    }

    /// The pod's addresses; without a sandbox those last reported.
    pub fn pod_ips(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) -> Vec<IpAddr> {
        if spec::host_network(pod) {
            return self.config.node_ips.clone();
        }
        match sandbox {
            Some(sandbox) => sandbox.addresses.clone(),
            None => {
                let reported = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
                reported.filter_map(|ip| ip.ip.parse().ok()).collect()
            }
        }
    }

    /// The ConfigMaps and Secrets of these names.
    pub async fn sources(
        &self,
        namespace: &str,
        (config_maps, secrets): (BTreeSet<String>, BTreeSet<String>),
    ) -> Result<Sources, kube::Error> {
        let mut sources = Sources::default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        for name in config_maps {
            sources.config_maps.insert(name.clone(), api.get_opt(&name).await?);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        for name in secrets {
            sources.secrets.insert(name.clone(), api.get_opt(&name).await?);
        }
        Ok(sources)
    }
}
