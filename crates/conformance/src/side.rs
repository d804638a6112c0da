//! One of two systems that are given the same writes: a client, what the watched kinds hold now, and how often they were
//! written. Not responsible for which writes, or for comparing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use http::Request;
use kube::Client;
use kube::api::WatchEvent;
use serde_json::{Value, json};

/// A request that changes something.
#[derive(Clone, Debug)]
pub struct Write {
    pub method: &'static str,
    pub path: String,
    pub body: Value,
}

impl Write {
    /// Creates an object. Members that are null, as merge patches have them, are left out.
    pub fn post(path: impl Into<String>, mut body: Value) -> Self {
        leave_out_nulls(&mut body);
        Write { method: "POST", path: path.into(), body }
    }

    /// A merge patch.
    pub fn patch(path: impl Into<String>, body: Value) -> Self {
        Write { method: "PATCH", path: path.into(), body }
    }

    pub fn delete(path: impl Into<String>, body: Value) -> Self {
        Write { method: "DELETE", path: path.into(), body }
    }
}

fn leave_out_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(leave_out_nulls);
        }
        Value::Array(entries) => entries.iter_mut().for_each(leave_out_nulls),
        _ => {}
    }
}

/// A written object in a line: its name and what it holds.
fn told(object: &Value) -> String {
    let mut object = object.clone();
    let metadata = object["metadata"].take();
    let kept = ["labels", "annotations", "generation"].map(|field| &metadata[field]);
    format!("{} {} {object}", metadata["name"], json!(kept))
}

/// An API server's answer: code and body.
pub struct Answer {
    pub code: u16,
    pub body: Value,
}

#[derive(Default)]
struct Seen {
    /// By resource, namespace and name.
    objects: BTreeMap<(&'static str, String, String), Value>,
    /// Writes that changed something, by resource and namespace: a line each.
    writes: BTreeMap<(&'static str, String), Vec<String>>,
    /// When something in a namespace last changed.
    changed: BTreeMap<String, Instant>,
    broken: Option<String>,
}

/// Called with every object of a watched kind when it changes.
pub type OnChange = Arc<dyn Fn(&'static str, &Value) + Send + Sync>;

#[derive(Clone)]
pub struct Side {
    pub name: &'static str,
    pub client: Client,
    seen: Arc<Mutex<Seen>>,
}

impl Side {
    pub fn new(name: &'static str, client: Client) -> Self {
        Side { name, client, seen: Arc::default() }
    }

    pub async fn send(&self, write: &Write) -> Result<Answer> {
        let kind = if write.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if write.body.is_null() { Vec::new() } else { write.body.to_string().into_bytes() };
        let request = Request::builder().method(write.method).uri(&write.path).header("content-type", kind);
        match self.client.request::<Value>(request.body(body)?).await {
            Ok(body) => Ok(Answer { code: 200, body }),
            Err(kube::Error::Api(status)) => {
                let body = serde_json::to_value(&*status).unwrap_or_default();
                Ok(Answer { code: status.code, body })
            }
            Err(error) => Err(error).with_context(|| format!("{}: {} {}", self.name, write.method, write.path)),
        }
    }

    /// Follows a resource (the plural, and where its group is served) in every namespace, for as long as the process
    /// lives.
    pub async fn watch(&self, resource: &'static str, group: &'static str, on_change: Option<OnChange>) -> Result<()> {
        let path = format!("{group}/{resource}");
        let list: Value = self.client.request(Request::get(&path).body(Vec::new())?).await?;
        let mut version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        for object in list["items"].as_array().into_iter().flatten() {
            self.take(resource, object, false, on_change.as_ref());
        }
        let side = self.clone();
        tokio::spawn(async move {
            loop {
                if let Err(error) = side.follow(resource, &path, &mut version, on_change.as_ref()).await {
                    side.locked().broken = Some(format!("{}: the watch of {resource} broke: {error:#}", side.name));
                    return;
                }
            }
        });
        Ok(())
    }

    async fn follow(
        &self,
        resource: &'static str,
        path: &str,
        version: &mut String,
        on_change: Option<&OnChange>,
    ) -> Result<()> {
        let uri = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=280");
        let stream = self.client.request_events::<Value>(Request::get(uri).body(Vec::new())?).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.try_next().await? {
            let (verb, object) = match event {
                WatchEvent::Added(object) => ("create", object),
                WatchEvent::Modified(object) => ("update", object),
                WatchEvent::Deleted(object) => ("delete", object),
                WatchEvent::Bookmark(mark) => {
                    version.clone_from(&mark.metadata.resource_version);
                    continue;
                }
                WatchEvent::Error(status) => anyhow::bail!("{}", status.message),
            };
            if let Some(seen) = object["metadata"]["resourceVersion"].as_str() {
                seen.clone_into(version);
            }
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            let line = format!("{verb} {}", told(&object));
            self.locked().writes.entry((resource, namespace)).or_default().push(line);
            self.take(resource, &object, verb == "delete", on_change);
        }
        Ok(())
    }

    fn take(&self, resource: &'static str, object: &Value, gone: bool, on_change: Option<&OnChange>) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (resource, text("namespace"), text("name"));
        let mut seen = self.locked();
        seen.changed.insert(key.1.clone(), Instant::now());
        if gone {
            seen.objects.remove(&key);
        } else {
            seen.objects.insert(key, object.clone());
        }
        drop(seen);
        if let Some(on_change) = on_change.filter(|_| !gone) {
            on_change(resource, object);
        }
    }

    /// The objects of a resource in a namespace, by name.
    pub fn objects(&self, resource: &'static str, namespace: &str) -> Vec<Value> {
        let seen = self.locked();
        let first = (resource, namespace.to_owned(), String::new());
        let here = seen.objects.range(first..).take_while(|(key, _)| key.0 == resource && key.1 == namespace);
        here.map(|(_, object)| object.clone()).collect()
    }

    /// The writes of a resource in a namespace since the watch began, a line each.
    pub fn writes(&self, resource: &'static str, namespace: &str) -> Vec<String> {
        self.locked().writes.get(&(resource, namespace.to_owned())).cloned().unwrap_or_default()
    }

    /// When a watched object of a namespace last changed.
    pub fn changed(&self, namespace: &str) -> Option<Instant> {
        self.locked().changed.get(namespace).copied()
    }

    /// Fails when a watch has ended: from then on nothing that is compared would be true.
    pub fn sound(&self) -> Result<()> {
        match &self.locked().broken {
            Some(what) => anyhow::bail!("{what}"),
            None => Ok(()),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
