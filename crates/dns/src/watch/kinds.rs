//! The kinds that are watched: of each object what the view reads, and how it goes into the view and out of it.

use std::borrow::Cow;
use std::fmt::Debug;
use std::hash::Hash;

use dns_zone::{Endpoint, EndpointPort, Metadata, Object, ObjectKey, PodStatus, ServiceImportSpec, ServiceSpec, View};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Namespace)]
pub struct Namespace {
    metadata: ObjectMeta,
}

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Service)]
pub struct Service {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::discovery::v1::EndpointSlice)]
pub struct EndpointSlice {
    metadata: ObjectMeta,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<EndpointPort>>,
}

#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = k8s_openapi::api::core::v1::Pod)]
pub struct Pod {
    metadata: ObjectMeta,
    #[serde(default)]
    status: PodStatus,
}

/// Of a group that not every cluster has; where it's missing, the watch says so, and again, until it's there.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceImport {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceImportSpec,
}

impl Resource for ServiceImport {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;
    fn kind((): &()) -> Cow<'_, str> {
        "ServiceImport".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "multicluster.x-k8s.io".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "serviceimports".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A kind that the view knows.
pub trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
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
        deletion_timestamp: metadata.deletion_timestamp.map(|time| time.0.to_string()),
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

impl Watched for Pod {
    type Key = ObjectKey;
    fn key(&self) -> ObjectKey {
        object_key(&self.metadata)
    }
    fn object(self) -> Object {
        Object::Pod(dns_zone::Pod { metadata: metadata(self.metadata), status: self.status })
    }
    fn keys(view: &View) -> Vec<ObjectKey> {
        view.pod_keys()
    }
    fn remove(view: &mut View, key: &ObjectKey) {
        view.remove_pod(key);
    }
}

impl Watched for ServiceImport {
    type Key = ObjectKey;
    fn key(&self) -> ObjectKey {
        object_key(&self.metadata)
    }
    fn object(self) -> Object {
        Object::ServiceImport(dns_zone::ServiceImport { metadata: metadata(self.metadata), spec: self.spec })
    }
    fn keys(view: &View) -> Vec<ObjectKey> {
        view.service_import_keys()
    }
    fn remove(view: &mut View, key: &ObjectKey) {
        view.remove_service_import(key);
    }
}
