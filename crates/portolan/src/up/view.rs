//! What the API says about Services and what stands behind them, read or followed.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use super::table::{self, Row};

/// The cluster's DNS domain.
pub const DOMAIN: &str = "cluster.local";

/// A moment of the cluster. Its objects are shared with whoever follows them.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub services: Vec<Arc<Service>>,
    pub slices: Vec<Arc<EndpointSlice>>,
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<Pod>>,
    pub deployments: Vec<Arc<Deployment>>,
}

impl View {
    /// Lists everything once.
    pub async fn read(client: &Client) -> Result<Self> {
        async fn list<K>(client: &Client) -> Result<Vec<Arc<K>>>
        where
            K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
        {
            let list = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
            let list = list.with_context(|| format!("cannot list {}", K::plural(&())))?;
            Ok(list.items.into_iter().map(Arc::new).collect())
        }
        Ok(View {
            services: list(client).await?,
            slices: list(client).await?,
            nodes: list(client).await?,
            pods: list(client).await?,
            deployments: list(client).await?,
        })
    }

    /// The table of it.
    pub fn rows(&self) -> Vec<Row> {
        table::rows(&self.services, &self.slices, self.node_address(), DOMAIN)
    }

    fn node_address(&self) -> Option<IpAddr> {
        let addresses = self.nodes.iter().filter_map(|n| n.status.as_ref()?.addresses.as_ref()).flatten();
        addresses.filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
    }
}

/// A view that follows the API.
pub struct Following {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    deployments: Store<Deployment>,
    changes: stream::BoxStream<'static, ()>,
}

impl Following {
    /// Begins to watch.
    pub fn start(client: &Client) -> Self {
        let (services, a) = follow(client);
        let (slices, b) = follow(client);
        let (nodes, c) = follow(client);
        let (pods, d) = follow(client);
        let (deployments, e) = follow(client);
        let changes = stream::select_all([a, b, c, d, e]).boxed();
        Following { services, slices, nodes, pods, deployments, changes }
    }

    /// The view as it is now.
    pub fn view(&self) -> View {
        View {
            services: self.services.state(),
            slices: self.slices.state(),
            nodes: self.nodes.state(),
            pods: self.pods.state(),
            deployments: self.deployments.state(),
        }
    }

    /// Whether every kind has been listed.
    pub fn complete(&self) -> bool {
        fn listed<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>) -> bool {
            store.wait_until_ready().now_or_never().is_some_and(|r| r.is_ok())
        }
        listed(&self.services)
            && listed(&self.slices)
            && listed(&self.nodes)
            && listed(&self.pods)
            && listed(&self.deployments)
    }

    /// Waits until something changed, and takes all that has by then: what did is for the next `view` to say.
    pub async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            std::future::pending::<()>().await;
        }
        while let Some(Some(())) = self.changes.next().now_or_never() {}
    }
}

fn follow<K>(client: &Client) -> (Store<K>, stream::BoxStream<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    let changes: std::pin::Pin<Box<dyn Stream<Item = ()> + Send>> =
        Box::pin(events.reflect(writer).filter_map(async |event| event.ok().map(drop)));
    (store, changes)
}
