//! What the API has of the kinds that are asked for, followed into the view that questions are answered from.
//!
//! Objects are decoded into the few fields the view reads; nothing else of them is kept.

mod kinds;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use dns_zone::{Config, Pods, View};
use futures::stream::{BoxStream, select_all};
use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use kinds::{EndpointSlice, Namespace, Pod, Service, ServiceImport, Watched};

/// The view as it is now, for many readers and one writer.
pub type Published = Arc<ArcSwap<View>>;

/// A change to the view, and whether with it a kind is listed completely.
struct Change {
    apply: Box<dyn FnOnce(&mut View) + Send>,
    listed: Option<&'static str>,
}

/// Pods that have ended are nobody's names.
const RUNNING: &str = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown";

/// Keeps the view until cancelled.
pub async fn follow(client: Client, config: Config, published: Published, stop: CancellationToken) {
    let watches = watches(&client, &config);
    let kinds = watches.len();
    let mut changes = select_all(watches);
    let mut view = View::new(&config);
    let mut listed = HashSet::new();
    loop {
        let change = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.next() => change,
        };
        let Some(change) = change else { return };
        (change.apply)(&mut view);
        listed.extend(change.listed);
        view.synced = listed.len() == kinds;
        view.serial = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() as u32);
        published.store(Arc::new(view.clone()));
    }
}

/// What the configuration needs, and no more: pods alone would be most of what a cluster has.
fn watches(client: &Client, config: &Config) -> Vec<BoxStream<'static, Change>> {
    let by = |labels: &Option<String>| {
        let plain = watcher::Config::default();
        labels.as_ref().map_or(plain.clone(), |labels| plain.labels(labels))
    };
    let mut watches = vec![
        changes::<Namespace>(client, by(&config.namespace_labels)),
        changes::<Service>(client, by(&config.labels)),
    ];
    if !config.noendpoints {
        watches.push(changes::<EndpointSlice>(client, by(&config.labels)));
    }
    if config.pods == Pods::Verified {
        watches.push(changes::<Pod>(client, by(&config.labels).fields(RUNNING)));
    }
    if !config.multicluster.is_empty() {
        watches.push(changes::<ServiceImport>(client, by(&config.labels)));
    }
    watches
}

fn changes<K: Watched>(client: &Client, which: watcher::Config) -> BoxStream<'static, Change> {
    let events = watcher(Api::<K>::all(client.clone()), which).backoff(runtime::backoff::watching());
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
