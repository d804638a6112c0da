//! What the API does with objects of any kind: create, get, list, watch, update, patch, delete, over a store.
//!
//! Kinds bring their rules as strategies. Not responsible for HTTP, nor for who may do what.

mod admission;
mod create;
mod delete;
mod get;
mod lines;
mod list;
pub mod metadata;
mod options;
mod patch;
mod subresources;
mod token;
mod update;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use api::Resource;
use api::status::{GroupResource, Status};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use store::{Compare, Entry, Op, Outcome, Revision, Store, Txn};

use crate::http::route::Target;
use crate::kinds::{self, Kinds};
use crate::service_allocation::Allocator;

pub use delete::{DeleteOptions, Deleted};
pub use lines::Lines;
pub use list::Listed;
pub use options::{ListOptions, Match, Selection};
pub use patch::Patch;
pub use watch::WatchOptions;

/// An object, or the Status that says why not. Boxed, for a Status is big and rare.
pub type Answer<T> = Result<T, Box<Status>>;

/// How often a write that lost a race starts again from what it finds then.
const RETRIES: usize = 32;

/// Events are forgotten after this (kube-apiserver's --event-ttl).
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// The objects of all kinds, in a store.
pub struct Registry {
    pub store: Arc<dyn Store>,
    pub kinds: Kinds,
    pub allocator: Allocator,
    pub lines: Arc<Lines>,
}

/// What a write is made with, whatever the verb.
pub struct Scene<'a> {
    pub target: &'a Target,
    pub now: Timestamp,
    /// Everything but storing.
    pub dry_run: bool,
    /// Texts for the client, collected on the way.
    pub warnings: Vec<String>,
}

impl Scene<'_> {
    pub fn resource(&self) -> &'static Resource {
        self.target.resource
    }

    pub fn subject(&self) -> GroupResource<'static> {
        GroupResource::from(self.target.resource)
    }

    pub fn context(&self) -> api::Context {
        api::Context { now: self.now, subresource: self.target.subresource }
    }

    /// The key of an object of this scene's collection.
    pub fn key(&self, name: &str) -> store::Key {
        kinds::key(self.target.resource, self.target.namespace.as_deref(), name).into()
    }

    /// The name in the path; only called where routes have one.
    pub fn name(&self) -> Answer<&str> {
        self.target.name.as_deref().ok_or_else(|| Box::new(Status::bad_request("name must be provided")))
    }

    fn ttl(&self) -> Option<Duration> {
        (self.target.resource.plural == "events").then_some(EVENT_TTL)
    }
}

/// An object as read, with the revision that wrote it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// With its resourceVersion.
    pub object: Value,
    pub revision: Revision,
}

/// How a write to the store ended, conflicts being an answer and not a failure.
pub enum Written {
    At(Revision),
    /// Another writer was faster at this key.
    Raced(store::Key),
}

impl Registry {
    /// The object under a key.
    pub async fn read(&self, key: &str) -> Answer<Option<Stored>> {
        match self.store.get(key).await.map_err(store_failed)? {
            Some(entry) => Ok(Some(stored(&entry)?)),
            None => Ok(None),
        }
    }

    async fn write(&self, txn: Txn) -> Answer<Written> {
        match self.store.txn(txn).await.map_err(store_failed)? {
            Outcome::Committed(revision) => Ok(Written::At(revision)),
            Outcome::Conflict { key, .. } => Ok(Written::Raced(key)),
        }
    }
}

/// Changes to the store that belong together.
#[derive(Default)]
pub struct Changes {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Changes {
    pub fn put(&mut self, key: store::Key, object: &Value, ttl: Option<Duration>) {
        self.ops.push(Op::Put { key, value: encode(object), ttl });
    }

    pub fn into_txn(self) -> Txn {
        Txn { compares: self.compares, ops: self.ops }
    }
}

/// The bytes of an object in the store: without its resourceVersion, which only the commit knows.
pub fn encode(object: &Value) -> Bytes {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    object.to_string().into()
}

/// The object of an entry.
pub fn stored(entry: &Entry) -> Answer<Stored> {
    let mut object: Value = serde_json::from_slice(&entry.value).map_err(|error| {
        Box::new(Status::internal(format!("the object stored at {} is broken: {error}", entry.key)))
    })?;
    set_revision(&mut object, entry.modified);
    Ok(Stored { object, revision: entry.modified })
}

pub fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
}

/// Failures that have nothing to do with the request.
pub fn store_failed(error: store::Error) -> Box<Status> {
    Box::new(match error {
        store::Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        store::Error::Future { requested, current } => {
            Status::too_large_resource_version(requested.0.unsigned_abs(), current.0.unsigned_abs())
        }
        store::Error::NotWritten { obstacle: store::Obstacle::Full, .. } => Status::insufficient_storage(
            "the disk that holds the API server's objects is full: nothing was changed; it works again when there is room",
        ),
        store::Error::NotWritten { obstacle, .. } => Status::service_unavailable(format!(
            "the API server can't write its objects ({obstacle}): nothing was changed; it works again when that is mended"
        )),
        store::Error::Unsettled { obstacle, .. } => Status::service_unavailable(format!(
            "the API server can't write its objects ({obstacle}) and can't tell yet whether this was written: look before \
             you try again"
        )),
        other => Status::internal(other),
    })
}

/// A race lost too often: the client may try again.
fn exhausted(scene: &Scene<'_>, operation: &str) -> Box<Status> {
    Box::new(Status::server_timeout(scene.subject(), operation, 1))
}

/// RFC 3339 in whole seconds, as metadata has it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
