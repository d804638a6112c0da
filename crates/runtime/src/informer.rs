//! One watch that keeps one cache in step, for as long as it is run. Not responsible for who reads the cache.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::cache::Cache;
use crate::key::Key;

/// A watch over one kind with its cache.
pub struct Informer<K: Resource> {
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    cache: Arc<Cache<K>>,
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone,
{
    /// Watches every object of a kind that knows its own name.
    pub fn new(client: Client) -> Self
    where
        K::DynamicType: Default,
    {
        Self::over(Api::all(client), watcher::Config::default())
    }

    /// Watches what `config` selects of `api`.
    pub fn over(api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Self {
        Self { api, config, cache: Arc::new(Cache::default()) }
    }

    pub fn cache(&self) -> Arc<Cache<K>> {
        self.cache.clone()
    }

    /// Keeps the cache in step until cancelled. Loss of the API server leaves the last known state in place.
    pub async fn run(self, token: CancellationToken) {
        // The API server may start at the same moment: the first attempts follow each other quickly.
        let backoff = Backoff { first: Duration::from_millis(10), last: Duration::from_secs(10) };
        let url = self.api.resource_url().to_owned();
        let mut stream = pin!(watcher(self.api, self.config));
        let mut failures = 0_u32;
        loop {
            let event = tokio::select! {
                () = token.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    failures = 0;
                    take(&self.cache, event);
                }
                Some(Err(error)) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(%url, %error, failures, "the watch failed, will retry");
                    tokio::select! {
                        () = token.cancelled() => return,
                        () = tokio::time::sleep(backoff.delay(failures)) => {}
                    }
                }
                // kube's watcher never ends.
                None => return,
            }
        }
    }
}

/// Feeds an event to the cache. An object that does not parse is treated as absent: one bad object never stops the
/// rest.
fn take<K: Resource>(cache: &Cache<K>, event: Event<DeserializeGuard<K>>) {
    let wanted = match event {
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
        Event::InitApply(guard) => parsed(cache, guard).map(Event::InitApply),
        Event::Apply(guard) => parsed(cache, guard).map(Event::Apply),
        Event::Delete(guard) => parsed(cache, guard).map(Event::Delete),
    };
    if let Some(event) = wanted {
        cache.apply(event);
    }
}

fn parsed<K: Resource>(cache: &Cache<K>, guard: DeserializeGuard<K>) -> Option<K> {
    match guard.0 {
        Ok(mut object) => {
            // Field managers are half of an object's size, and no controller reads them.
            object.managed_fields_mut().clear();
            Some(object)
        }
        Err(invalid) => {
            let key = Key::of(&invalid.metadata);
            tracing::warn!(%key, error = %invalid.error, "an object that does not parse is left out");
            cache.leave_out(&key, invalid.metadata.uid.as_deref().unwrap_or_default());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tower::service_fn;

    use super::*;

    /// An API server that gives these answers, one to each request, and then none.
    fn server(answers: Vec<(u16, String)>) -> Client {
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let service = service_fn(move |_: Request<Body>| {
            let answer = answers.lock().expect("no panic under the lock").pop_front();
            async move {
                match answer {
                    Some((code, body)) => {
                        let answer = Response::builder().status(code).body(Body::from(body.into_bytes()));
                        Ok::<_, Infallible>(answer.expect("a response"))
                    }
                    None => std::future::pending().await,
                }
            }
        });
        Client::new(service, "default")
    }

    fn object(name: &str, version: u32) -> Value {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": name, "namespace": "default", "uid": name,
                              "resourceVersion": version.to_string() } })
    }

    fn list(items: &[Value], version: u32) -> String {
        json!({ "apiVersion": "v1", "kind": "ConfigMapList", "items": items,
                "metadata": { "resourceVersion": version.to_string() } })
        .to_string()
    }

    #[tokio::test]
    async fn follows_a_watch_keeps_what_it_knows_through_failures_and_leaves_out_what_does_not_parse() {
        let mut broken = object("broken", 3);
        broken["data"] = json!(7);
        let gone = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
                           "message": "too old", "metadata": {} });
        let event = |kind: &str, object: Value| format!("{}\n", json!({ "type": kind, "object": object }));
        let client = server(vec![
            (200, list(&[object("a", 1), broken], 3)),
            (200, event("ADDED", object("b", 4))),
            // The server is away for a moment, and has forgotten the revision when it is back.
            (500, gone.to_string()),
            (200, event("ERROR", gone)),
            (200, list(&[object("b", 4), object("c", 5)], 6)),
        ]);
        let informer = Informer::<ConfigMap>::new(client);
        let cache = informer.cache();
        let (told, mut changes) = mpsc::unbounded_channel();
        cache.on_change(move |change| {
            let name = change.latest().map(|object| object.name_any()).unwrap_or_default();
            let _ = told.send((name, change.new.is_some()));
        });
        let token = CancellationToken::new();
        let running = tokio::spawn(informer.run(token.clone()));
        cache.synced().await;
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.push(changes.recv().await.expect("the informer runs"));
        }
        seen[2..].sort();
        let there = |name: &str| (name.to_owned(), true);
        assert_eq!(seen, [there("a"), there("b"), ("a".to_owned(), false), there("c")]);
        let names: Vec<String> = cache.all().iter().map(|object| object.name_any()).collect();
        assert_eq!(names, ["b", "c"]);
        token.cancel();
        running.await.expect("a clean end");
    }
}
