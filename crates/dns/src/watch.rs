//! The API's Services, EndpointSlices and Namespaces, followed into the view that questions are answered from.
//!
//! Objects are decoded into the few fields the view reads; nothing else of them is kept.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use dns_zone::{Endpoint, EndpointPort, Metadata, Object, ObjectKey, ServiceSpec, View};
use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// The view as it is now, for many readers and one writer.
pub type Published = Arc<ArcSwap<View>>;

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Namespace)]
struct Namespace {
    metadata: ObjectMeta,
}

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Service)]
struct Service {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::discovery::v1::EndpointSlice)]
struct EndpointSlice {
    metadata: ObjectMeta,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<EndpointPort>>,
}

/// A kind that the view knows.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    type Key: Eq + Hash + Clone + Send;
    fn key(&self) -> Self::Key;
    fn object(self) -> Object;
    fn keys(view: &View) -> Vec<Self::Key>;
    fn remove(view: &mut View, key: &Self::Key);
}

fn object_key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn metadata(metadata: ObjectMeta) -> Metadata {
    Metadata {
        name: metadata.name.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
    }
}

impl Watched for Namespace {
    type Key = String;
    fn key(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }
    fn object(self) -> Object {
        Object::Namespace(dns_zone::Namespace { metadata: metadata(self.metadata) })
    }
    fn keys(view: &View) -> Vec<String> {
        view.namespace_names()
    }
    fn remove(view: &mut View, key: &String) {
        view.remove_namespace(key);
    }
}

impl Watched for Service {
    type Key = ObjectKey;
    fn key(&self) -> ObjectKey {
        object_key(&self.metadata)
    }
    fn object(self) -> Object {
        Object::Service(dns_zone::Service { metadata: metadata(self.metadata), spec: self.spec })
    }
    fn keys(view: &View) -> Vec<ObjectKey> {
        view.service_keys()
    }
    fn remove(view: &mut View, key: &ObjectKey) {
        view.remove_service(key);
    }
}

impl Watched for EndpointSlice {
    type Key = ObjectKey;
    fn key(&self) -> ObjectKey {
        object_key(&self.metadata)
    }
    fn object(self) -> Object {
        let endpoints = self.endpoints.unwrap_or_default();
        Object::EndpointSlice(dns_zone::EndpointSlice {
            metadata: metadata(self.metadata),
            endpoints,
            ports: self.ports,
        })
    }
    fn keys(view: &View) -> Vec<ObjectKey> {
        view.slice_keys()
    }
    fn remove(view: &mut View, key: &ObjectKey) {
        view.remove_slice(key);
    }
}

/// A change to the view, and whether with it a kind is listed completely.
struct Change {
    apply: Box<dyn FnOnce(&mut View) + Send>,
    listed: Option<&'static str>,
}

const KINDS: usize = 3;

/// Keeps the view until cancelled.
pub async fn follow(client: Client, published: Published, stop: CancellationToken) {
    let mut changes =
        select_all([changes::<Namespace>(&client), changes::<Service>(&client), changes::<EndpointSlice>(&client)]);
    let mut view = View::default();
    let mut listed = HashSet::new();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        let Some(change) = change else { return };
        (change.apply)(&mut view);
        listed.extend(change.listed);
        view.synced = listed.len() == KINDS;
        view.serial = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as u32);
        published.store(Arc::new(view.clone()));
    }
}

fn changes<K: Watched>(client: &Client) -> BoxStream<'static, Change> {
    let events =
        watcher(Api::<K>::all(client.clone()), watcher::Config::default()).backoff(runtime::backoff::watching());
    translate(events).boxed()
}

/// A relist removes what it no longer names, in one step at its end.
fn translate<K: Watched>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
) -> impl Stream<Item = Change> + Send {
    events
        .scan(HashSet::new(), |seen: &mut HashSet<K::Key>, event| {
            let change = |apply: Box<dyn FnOnce(&mut View) + Send>, listed| Some(Change { apply, listed });
            let next = match event {
                Ok(watcher::Event::Init) => {
                    seen.clear();
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    seen.insert(object.key());
                    change(Box::new(move |view| view.apply(object.object())), None)
                }
                Ok(watcher::Event::InitDone) => {
                    let seen = std::mem::take(seen);
                    let apply = move |view: &mut View| {
                        for gone in K::keys(view).into_iter().filter(|key| !seen.contains(key)) {
                            K::remove(view, &gone);
                        }
                    };
                    change(Box::new(apply), Some(std::any::type_name::<K>()))
                }
                Ok(watcher::Event::Apply(object)) => change(Box::new(move |view| view.apply(object.object())), None),
                Ok(watcher::Event::Delete(object)) => {
                    let key = object.key();
                    change(Box::new(move |view| K::remove(view, &key)), None)
                }
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "cannot watch; the last known state is served");
                    None
                }
            };
            std::future::ready(Some(next))
        })
        .filter_map(std::future::ready)
}
