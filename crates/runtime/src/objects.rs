//! Writes to one kind whose answers go straight into its cache, so that the next look at a key sees them. Not
//! responsible for deciding what to write or for retrying.

use std::fmt::Debug;
use std::sync::Arc;

use http::Request as HttpRequest;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::Request;
use kube::core::params::Preconditions;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cache::Cache;
use crate::key::Key;

/// The objects of one kind: a cache to read from and a client to write with.
pub struct Objects<K> {
    client: Client,
    cache: Arc<Cache<K>>,
    manager: &'static str,
}

impl<K> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), cache: self.cache.clone(), manager: self.manager }
    }
}

/// How to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Background,
    Foreground,
    Orphan,
}

/// A write that did not happen (or whose answer was lost).
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} {key}")]
pub struct WriteError {
    pub verb: &'static str,
    pub kind: String,
    pub key: Key,
    #[source]
    source: Box<kube::Error>,
}

impl WriteError {
    fn status(&self) -> Option<&kube::core::Status> {
        match &*self.source {
            kube::Error::Api(status) => Some(status),
            _ => None,
        }
    }

    /// The object has changed since it was read, or a precondition no longer holds.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }

    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// The object itself is refused, so the same write fails again.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|status| status.is_invalid() || status.is_forbidden())
    }

    /// Nothing can be created here any more.
    pub fn namespace_terminating(&self) -> bool {
        self.status()
            .and_then(|status| status.details.as_ref())
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// What the API server says, for people.
    pub fn message(&self) -> String {
        self.status().map_or_else(|| self.source.to_string(), |status| status.message.clone())
    }
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    /// `manager` names the writer in managedFields.
    pub fn new(client: Client, cache: Arc<Cache<K>>, manager: &'static str) -> Self {
        Self { client, cache, manager }
    }

    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// Creates `object` in its namespace and returns it as stored.
    pub async fn create(&self, object: &K) -> Result<K, WriteError> {
        let key = key_for(object);
        let request = encode(object).and_then(|body| build(self.request(&key).create(&self.post(), body)));
        let created = self.send("create", &key, request).await?;
        self.cache.observe(stripped(&created));
        Ok(created)
    }

    /// Replaces the object; its resourceVersion must be the one that is stored.
    pub async fn replace(&self, object: &K) -> Result<K, WriteError> {
        let key = key_for(object);
        let request = encode(object).and_then(|body| build(self.request(&key).replace(&key.name, &self.post(), body)));
        self.observed("update", &key, request).await
    }

    /// Replaces a subresource that takes and returns the whole object (`status`, `finalize`).
    pub async fn replace_subresource(&self, subresource: &'static str, object: &K) -> Result<K, WriteError> {
        let key = key_for(object);
        let request = encode(object)
            .and_then(|body| build(self.request(&key).replace_subresource(subresource, &key.name, &self.post(), body)));
        self.observed("update the status of", &key, request).await
    }

    /// Merge-patches the object. A `metadata.uid` or `resourceVersion` in the patch is a precondition.
    pub async fn patch(&self, key: &Key, patch: &Value) -> Result<K, WriteError> {
        let request = build(self.request(key).patch(&key.name, &self.patch_params(), &Patch::Merge(patch)));
        self.observed("patch", key, request).await
    }

    /// Strategic-merge-patches the status.
    pub async fn patch_status(&self, key: &Key, patch: &Value) -> Result<K, WriteError> {
        let params = self.patch_params();
        let patch = Patch::Strategic(patch);
        let request = build(self.request(key).patch_subresource("status", &key.name, &params, &patch));
        self.observed("patch the status of", key, request).await
    }

    /// Posts `body` to a subresource and ignores the object that comes back (`binding`).
    pub async fn post_subresource(
        &self,
        subresource: &'static str,
        key: &Key,
        body: Vec<u8>,
    ) -> Result<(), WriteError> {
        let request = build(self.request(key).create_subresource(subresource, &key.name, &self.post(), body));
        self.send::<Value>(subresource, key, request).await.map(|_| ())
    }

    /// Deletes exactly this object (by uid); being gone already is success.
    pub async fn delete(&self, object: &K, how: Deletion) -> Result<(), WriteError> {
        self.delete_with(object, how, None).await
    }

    /// As `delete`, with a grace period in seconds.
    pub async fn delete_with(&self, object: &K, how: Deletion, grace: Option<u32>) -> Result<(), WriteError> {
        let key = key_for(object);
        let uid = object.uid().unwrap_or_default();
        let params = DeleteParams {
            propagation_policy: Some(match how {
                Deletion::Background => PropagationPolicy::Background,
                Deletion::Foreground => PropagationPolicy::Foreground,
                Deletion::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
            grace_period_seconds: grace,
            ..DeleteParams::default()
        };
        let request = build(self.request(&key).delete(&key.name, &params));
        match self.send::<Value>("delete", &key, request).await {
            Ok(answer) => {
                let emptying = answer["spec"]["finalizers"].as_array().is_some_and(|held| !held.is_empty());
                match serde_json::from_value::<K>(answer) {
                    Ok(left) if emptying || lingers(&left) => self.cache.observe(stripped(&left)),
                    _ => self.cache.forget(&key, &uid),
                }
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.cache.forget(&key, &uid);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn observed(
        &self,
        verb: &'static str,
        key: &Key,
        request: Result<HttpRequest<Vec<u8>>, kube::Error>,
    ) -> Result<K, WriteError> {
        let stored: K = self.send(verb, key, request).await?;
        // The update that removes the last finalizer ends the object, and a namespace's are in its spec: what becomes
        // of an object like that is for the watch to say.
        if stored.meta().deletion_timestamp.is_none() || lingers(&stored) {
            self.cache.observe(stripped(&stored));
        }
        Ok(stored)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        key: &Key,
        request: Result<HttpRequest<Vec<u8>>, kube::Error>,
    ) -> Result<T, WriteError> {
        let outcome = match request {
            Ok(request) => self.client.request::<T>(request).await,
            Err(error) => Err(error),
        };
        outcome.map_err(|source| WriteError {
            verb,
            kind: K::kind(&()).into_owned(),
            key: key.clone(),
            source: Box::new(source),
        })
    }

    fn request(&self, key: &Key) -> Request {
        Request::new(K::url_path(&(), key.scope()))
    }

    fn post(&self) -> PostParams {
        PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() }
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() }
    }
}

/// Whether a deleted object is still there: graceful deletion or finalizers hold it.
fn lingers<K: Resource>(object: &K) -> bool {
    let metadata = object.meta();
    let held = metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    metadata.deletion_timestamp.is_some() && (held || metadata.deletion_grace_period_seconds.unwrap_or(0) > 0)
}

fn key_for<K: Resource>(object: &K) -> Key {
    let mut key = Key::of(object.meta());
    if key.name.is_empty() {
        key.name = object.meta().generate_name.clone().unwrap_or_default();
    }
    key
}

fn stripped<K: Resource + Clone>(object: &K) -> K {
    let mut object = object.clone();
    object.managed_fields_mut().clear();
    object
}

fn encode<T: Serialize>(object: &T) -> Result<Vec<u8>, kube::Error> {
    serde_json::to_vec(object).map_err(kube::Error::SerdeError)
}

fn build(
    request: Result<HttpRequest<Vec<u8>>, kube::core::request::Error>,
) -> Result<HttpRequest<Vec<u8>>, kube::Error> {
    request.map_err(kube::Error::BuildRequest)
}
