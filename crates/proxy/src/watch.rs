//! Watches the API into the model's own minimal types: Services, EndpointSlices, ServiceCIDRs and the own Node. A relist
//! arrives as one change, so nobody sees half of it. An object that does not decode is left out, never the stream.
//! Not responsible for what the objects mean.

use std::borrow::Cow;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use runtime::backoff::Backoff;
use serde::{Deserialize, Deserializer};
use service_model::{
    Change, EndpointSlice, Event, HEADLESS_LABEL, IpFamily, Meta, Node, ObjectName, PROXY_NAME_LABEL, Service,
    ServiceCidr,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// News for the model.
pub(crate) struct News {
    pub at: Instant,
    pub what: What,
    pub trigger: Option<Trigger>,
}

/// When what a slice tells of happened, as the controller that wrote it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trigger {
    pub family: IpFamily,
    pub at: SystemTime,
}

pub(crate) enum What {
    Model(Event),
    /// The own Node, or that there is none.
    Node(Option<Node>),
}

/// One of the model's kinds, with what is needed to watch it.
pub(crate) trait Kind: for<'de> Deserialize<'de> + Clone + Debug + Send + Sync + 'static {
    const GROUP: &'static str;
    const KIND: &'static str;
    const PLURAL: &'static str;

    fn meta(&mut self) -> &mut Meta;

    fn news(change: Change<Self>) -> Option<What>;

    /// Whose rules alone it touches.
    fn family(&self) -> Option<IpFamily> {
        None
    }
}

/// An object as the watch needs it.
#[derive(Clone, Debug)]
pub(crate) struct Watched<T> {
    metadata: ObjectMeta,
    /// When it happened, by the annotation.
    happened: String,
    object: T,
}

/// What proxies must leave alone is not even sent to them, by the labels kube-proxy 1.36 leaves out of either watch. Its
/// field selector for headless Services is unknown to older servers; the model sees to those.
pub(crate) fn our_services() -> watcher::Config {
    watcher::Config::default().labels(&format!("!{PROXY_NAME_LABEL}"))
}

pub(crate) fn our_slices() -> watcher::Config {
    watcher::Config::default().labels(&format!("!{HEADLESS_LABEL}"))
}

/// Watches one kind until cancelled, or until nobody listens.
pub(crate) async fn follow<T: Kind>(
    client: Client,
    config: watcher::Config,
    news: mpsc::Sender<News>,
    token: CancellationToken,
) {
    let backoff = Backoff { first: Duration::from_millis(10), last: Duration::from_secs(10) };
    let api: Api<DeserializeGuard<Watched<T>>> = Api::all(client);
    let mut stream = pin!(watcher(api, config));
    let mut listed = Vec::new();
    let mut failures = 0_u32;
    loop {
        let event = tokio::select! {
            () = token.cancelled() => return,
            event = stream.next() => event,
        };
        let (change, trigger) = match event {
            Some(Ok(event)) => {
                failures = 0;
                let trigger = trigger(&event);
                (change(event, &mut listed), trigger)
            }
            Some(Err(error)) => {
                failures = failures.saturating_add(1);
                tracing::warn!(kind = T::KIND, %error, failures, "the watch failed, will retry");
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(backoff.delay(failures)) => {}
                }
                (None, None)
            }
            None => return,
        };
        if let Some(what) = change.and_then(T::news)
            && news.send(News { at: Instant::now(), what, trigger }).await.is_err()
        {
            return;
        }
    }
}

fn change<T: Kind>(event: watcher::Event<DeserializeGuard<Watched<T>>>, listed: &mut Vec<T>) -> Option<Change<T>> {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(guard) => listed.extend(decoded(guard).ok()),
        watcher::Event::InitDone => return Some(Change::Relist(std::mem::take(listed))),
        watcher::Event::Apply(guard) => {
            return Some(match decoded(guard) {
                Ok(object) => Change::Upsert(object),
                Err(name) => Change::Delete(name),
            });
        }
        watcher::Event::Delete(guard) => {
            let name = match &guard.0 {
                Ok(watched) => name_of(&watched.metadata),
                Err(invalid) => name_of(&invalid.metadata),
            };
            return Some(Change::Delete(name));
        }
    }
    None
}

fn trigger<T: Kind>(event: &watcher::Event<DeserializeGuard<Watched<T>>>) -> Option<Trigger> {
    let watcher::Event::Apply(DeserializeGuard(Ok(watched))) = event else { return None };
    let at = watched.happened.parse::<Timestamp>().ok()?;
    Some(Trigger { family: watched.object.family()?, at: SystemTime::from(at) })
}

/// What does not decode is as good as gone: serving its last good state would hide the mistake for ever.
fn decoded<T: Kind>(guard: DeserializeGuard<Watched<T>>) -> Result<T, ObjectName> {
    match guard.0 {
        Ok(watched) => Ok(watched.object),
        Err(invalid) => {
            let name = name_of(&invalid.metadata);
            tracing::warn!(kind = T::KIND, ?name, error = %invalid.error, "an object that does not decode is left out");
            Err(name)
        }
    }
}

fn name_of(metadata: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

impl<'de, T: Kind> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = T::deserialize(deserializer)?;
        let meta = object.meta();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let metadata = ObjectMeta {
            namespace: some(&meta.namespace),
            name: some(&meta.name),
            uid: some(&meta.uid),
            resource_version: some(&std::mem::take(&mut meta.resource_version)),
            ..ObjectMeta::default()
        };
        let happened = std::mem::take(&mut meta.annotations.last_change);
        Ok(Watched { metadata, happened, object })
    }
}

impl<T: Kind> Resource for Watched<T> {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Kind for Service {
    const GROUP: &'static str = "";
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";

    fn meta(&mut self) -> &mut Meta {
        &mut self.metadata
    }

    fn news(change: Change<Self>) -> Option<What> {
        Some(What::Model(Event::Service(change)))
    }
}

impl Kind for EndpointSlice {
    const GROUP: &'static str = "discovery.k8s.io";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";

    fn meta(&mut self) -> &mut Meta {
        &mut self.metadata
    }

    fn news(change: Change<Self>) -> Option<What> {
        Some(What::Model(Event::EndpointSlice(change)))
    }

    fn family(&self) -> Option<IpFamily> {
        IpFamily::BOTH.into_iter().find(|family| family.address_type() == self.address_type)
    }
}

impl Kind for ServiceCidr {
    const GROUP: &'static str = "networking.k8s.io";
    const KIND: &'static str = "ServiceCIDR";
    const PLURAL: &'static str = "servicecidrs";

    fn meta(&mut self) -> &mut Meta {
        &mut self.metadata
    }

    fn news(change: Change<Self>) -> Option<What> {
        Some(What::Model(Event::ServiceCidr(change)))
    }
}

impl Kind for Node {
    const GROUP: &'static str = "";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";

    fn meta(&mut self) -> &mut Meta {
        &mut self.metadata
    }

    fn news(change: Change<Self>) -> Option<What> {
        Some(What::Node(match change {
            Change::Upsert(node) => Some(node),
            Change::Delete(_) => None,
            Change::Relist(nodes) => nodes.into_iter().next(),
        }))
    }
}
