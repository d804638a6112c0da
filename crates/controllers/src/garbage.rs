//! Deletes what has lost its owners, and makes foreground deletion and orphaning happen. Not responsible for what
//! never had an owner.

mod graph;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use kube::core::params::Preconditions;
use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use runtime::{Informer, Key, Next, Note, NoteKind, Reconcile, Recorder};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::Cluster;
use graph::{Action, Graph, Node, resource_of};

/// Any object as far as its metadata.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Meta {
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Resource for Meta {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How a kind is reached.
pub fn api_resource(resource: &api::Resource) -> ApiResource {
    let kind = GroupVersionKind::gvk(resource.group, resource.version, resource.kind);
    ApiResource::from_gvk_with_plural(&kind, resource.plural)
}

pub fn start(cluster: &mut Cluster) {
    let queue = cluster.queue::<String>();
    let graph = Arc::new(Mutex::new(Graph::default()));
    for (index, resource) in api::resources().iter().enumerate() {
        // Events have no owners, and there are many.
        let reachable = ["list", "watch", "delete"].iter().all(|verb| resource.verbs.contains(verb));
        if !reachable || resource.kind == "Event" {
            continue;
        }
        let every = Api::all_with(cluster.client.clone(), &api_resource(resource));
        let cache = cluster.watch(resource.plural, Informer::<Meta>::over(every, watcher::Config::default()));
        let (graph, marks) = (graph.clone(), queue.clone());
        cache.on_change(move |change| {
            let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
            let old = change.old.as_ref().map(|object| &object.metadata);
            let new = change.new.as_ref().map(|object| &object.metadata);
            graph.update(index, old, new).into_iter().for_each(|uid| marks.add(uid));
        });
    }
    let collector = Collector { client: cluster.client.clone(), recorder: cluster.recorder.clone(), graph };
    cluster.drive("garbage-collector", collector, queue, 8);
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the owner {kind} {key}")]
    Read { kind: String, key: Key, source: Box<kube::Error> },
    #[error("cannot {verb} {kind} {key}")]
    Write { verb: &'static str, kind: &'static str, key: Key, source: Box<kube::Error> },
}

struct Collector {
    client: Client,
    recorder: Recorder,
    graph: Arc<Mutex<Graph>>,
}

impl Reconcile for Collector {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, uid: &String) -> Result<Next, Error> {
        let unseen = {
            let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((node, owners)) = graph.misplaced_owners(uid) {
                owners.into_iter().for_each(|owner| self.recorder.publish(misplaced(node, owner)));
            }
            graph.unseen_owners(uid)
        };
        // An owner that is not in the graph may be newer than the graph: only the API server can tell.
        let mut absent = Vec::new();
        for (namespace, owner) in unseen {
            if self.is_absent(&namespace, &owner).await? {
                absent.push(owner.uid);
            }
        }
        let actions = {
            let graph = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
            graph.actions(uid, &absent)
        };
        for action in actions {
            self.execute(action).await?;
        }
        Ok(Next::Wait)
    }
}

impl Collector {
    async fn is_absent(&self, namespace: &str, owner: &OwnerReference) -> Result<bool, Error> {
        let Some(resource) = resource_of(owner) else {
            tracing::warn!(kind = owner.kind, name = owner.name, "an owner of unknown kind is taken to exist");
            return Ok(false);
        };
        let key = Key::new(if resource.namespaced() { namespace } else { "" }, &owner.name);
        match self.api(resource, &key).get_opt(&owner.name).await {
            Ok(found) => Ok(found.is_none_or(|found| found.metadata.uid.as_ref() != Some(&owner.uid))),
            Err(source) => Err(Error::Read { kind: owner.kind.clone(), key, source: Box::new(source) }),
        }
    }

    async fn execute(&self, action: Action) -> Result<(), Error> {
        match action {
            Action::Delete(node, policy) => self.delete(&node, policy).await,
            Action::Disown(node, owners) => {
                let mut references = node.owners.clone();
                references.retain(|reference| !owners.contains(&reference.uid));
                self.patch(&node, "take owners off", json!({ "ownerReferences": references })).await
            }
            Action::Finish(node, finalizer) => {
                let mut finalizers = node.finalizers.clone();
                finalizers.retain(|held| *held != finalizer);
                self.patch(&node, "finalize", json!({ "finalizers": finalizers })).await
            }
        }
    }

    async fn delete(&self, node: &Node, policy: PropagationPolicy) -> Result<(), Error> {
        let resource = api::resources()[node.resource];
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(node.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let outcome = self.api(resource, &node.key).delete(&node.key.name, &params).await;
        settle(outcome.map(drop), "delete", resource, &node.key)
    }

    async fn patch(&self, node: &Node, verb: &'static str, mut metadata: serde_json::Value) -> Result<(), Error> {
        let resource = api::resources()[node.resource];
        metadata["uid"] = json!(node.uid);
        metadata["resourceVersion"] = json!(node.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let outcome = self.api(resource, &node.key).patch(&node.key.name, &PatchParams::default(), &patch).await;
        settle(outcome.map(drop), verb, resource, &node.key)
    }

    fn api(&self, resource: &api::Resource, key: &Key) -> Api<Meta> {
        let kind = api_resource(resource);
        match key.scope() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        }
    }
}

/// Says on an object, in upstream's words, that one of its owners is not where it could own it.
fn misplaced(node: &Node, owner: &OwnerReference) -> Note {
    let resource = api::resources()[node.resource];
    let namespace = &node.key.namespace;
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    let reference = format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]");
    Note {
        about: ObjectReference {
            api_version: Some(resource.api_version()),
            kind: Some(resource.kind.to_owned()),
            namespace: node.key.scope().map(str::to_owned),
            name: Some(node.key.name.clone()),
            uid: Some(node.uid.clone()),
            ..ObjectReference::default()
        },
        kind: NoteKind::Warning,
        reason: "OwnerRefInvalidNamespace".to_owned(),
        message: format!("ownerRef {reference} does not exist in namespace {namespace:?}"),
    }
}

/// What is gone already, or has a namesake's uid, needs nothing more.
fn settle(
    outcome: Result<(), kube::Error>,
    verb: &'static str,
    resource: &'static api::Resource,
    key: &Key,
) -> Result<(), Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => Err(Error::Write { verb, kind: resource.kind, key: key.clone(), source: Box::new(source) }),
        Ok(()) => Ok(()),
    }
}
