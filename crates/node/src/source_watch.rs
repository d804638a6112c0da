//! Noticing that ConfigMaps and Secrets change: one watch per kind and node, begun when the first pod needs it.
//!
//! Not responsible for what changed: whoever is told reads the object again.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Changes that nobody has taken yet; who misses some reads everything again.
const CHANGES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    ConfigMap,
    Secret,
}

/// An object that volumes are made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub kind: SourceKind,
    pub namespace: String,
    pub name: String,
}

pub struct SourceWatch {
    client: Client,
    changes: broadcast::Sender<Source>,
    begun: Mutex<BTreeSet<SourceKind>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SourceWatch {
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        SourceWatch { client, changes, begun: Mutex::default(), tasks: TaskTracker::new(), stop }
    }

    /// Changes of all objects of these kinds from now on.
    pub fn subscribe(&self, kinds: impl IntoIterator<Item = SourceKind>) -> broadcast::Receiver<Source> {
        let receiver = self.changes.subscribe();
        for kind in kinds {
            let first = self.begun.lock().unwrap_or_else(PoisonError::into_inner).insert(kind);
            match kind {
                SourceKind::ConfigMap if first => self.watch::<ConfigMap>(kind),
                SourceKind::Secret if first => self.watch::<Secret>(kind),
                _ => {}
            }
        }
        receiver
    }

    /// Returns when the watches have ended, which they do when the agent stops.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn watch<K>(&self, kind: SourceKind)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let stream = watcher(Api::<K>::all(self.client.clone()), watcher::Config::default())
            .backoff(runtime::backoff::watching());
        let (changes, stop) = (self.changes.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = stream.next() => event,
                };
                let object = match event {
                    None => return,
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => continue,
                    Some(Ok(
                        watcher::Event::Apply(object)
                        | watcher::Event::Delete(object)
                        | watcher::Event::InitApply(object),
                    )) => object,
                    Some(Err(error)) => {
                        tracing::warn!(%error, ?kind, "watching what volumes are made from; they stay as they are");
                        continue;
                    }
                };
                let meta = object.meta().clone();
                let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                // Nobody listens when no pod has such a volume any more.
                let _ = changes.send(Source { kind, namespace, name });
            }
        });
    }
}

/// Returns when one of `wanted` has changed, or may have.
pub async fn changed(changes: &mut Option<broadcast::Receiver<Source>>, wanted: &BTreeSet<Source>) {
    let Some(receiver) = changes else { return std::future::pending().await };
    loop {
        match receiver.recv().await {
            Ok(source) if wanted.contains(&source) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // The agent is going down.
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}
