//! Events as kubelet writes them, sent in the background: repeated ones raise a count, floods are thinned out.
//!
//! Not responsible for what is worth an Event. A full queue or an unreachable API loses Events, never work.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::pod::PodKey;
use crate::pod::plan::Notice;

/// The queue's length: what a burst of pod starts writes.
const QUEUE: usize = 1024;
/// Kept to raise counts instead of repeating.
const REMEMBERED: usize = 4096;
/// Per object, as kubelet: so many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// One Event to write.
#[derive(Clone, Debug)]
struct Record {
    object: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
    at: Moment,
}

/// Where Events are handed in. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Record>,
    clock: Clock,
}

impl Events {
    /// The handle, and the task that writes.
    pub fn new(
        client: Client,
        node_name: &str,
        clock: Clock,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, records) = mpsc::channel(QUEUE);
        let writer = Writer { client, node: node_name.to_owned(), known: HashMap::new(), buckets: HashMap::new() };
        (Events { queue, clock }, writer.run(records, stop))
    }

    /// About a pod, or one of its containers.
    pub fn pod(&self, pod: &PodKey, field_path: Option<String>, warning: bool, reason: &'static str, message: String) {
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            field_path,
            ..Default::default()
        };
        self.send(Record { object, warning, reason, message, at: self.clock.now() });
    }

    pub fn notice(&self, pod: &PodKey, notice: &Notice) {
        self.pod(pod, notice.field_path.clone(), notice.warning, notice.reason, notice.message.clone());
    }

    /// About the node.
    pub fn node(&self, name: &str, warning: bool, reason: &'static str, message: String) {
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.send(Record { object, warning, reason, message, at: self.clock.now() });
    }

    fn send(&self, record: Record) {
        if let Err(error) = self.queue.try_send(record) {
            tracing::warn!(%error, "an Event is lost: the queue is full");
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    uid: String,
    field_path: Option<String>,
    reason: &'static str,
    message: String,
}

struct Written {
    name: String,
    count: i32,
    at: Moment,
}

struct Writer {
    client: Client,
    node: String,
    known: HashMap<Identity, Written>,
    buckets: HashMap<String, (f64, Instant)>,
}

impl Writer {
    async fn run(mut self, mut records: mpsc::Receiver<Record>, stop: CancellationToken) {
        loop {
            let record = tokio::select! {
                () = stop.cancelled() => return,
                record = records.recv() => record,
            };
            let Some(record) = record else { return };
            if !self.admit(record.object.uid.as_deref().unwrap_or("")) {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.write(record) => {
                    if let Err(error) = result {
                        tracing::warn!(%error, "an Event is lost");
                    }
                }
            }
        }
    }

    fn admit(&mut self, uid: &str) -> bool {
        if self.buckets.len() > REMEMBERED {
            self.buckets.clear();
        }
        let now = Instant::now();
        let (tokens, since) = self.buckets.entry(uid.to_owned()).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*since).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        *since = now;
        let admitted = *tokens >= 1.0;
        if admitted {
            *tokens -= 1.0;
        }
        admitted
    }

    async fn write(&mut self, record: Record) -> Result<(), kube::Error> {
        let namespace = record.object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let identity = Identity {
            uid: record.object.uid.clone().unwrap_or_default(),
            field_path: record.object.field_path.clone(),
            reason: record.reason,
            message: record.message.clone(),
        };
        if let Some(written) = self.known.get_mut(&identity) {
            written.count = written.count.saturating_add(1);
            let patch = serde_json::json!({"count": written.count, "lastTimestamp": record.at.time()});
            match api.patch(&written.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let event = api.create(&PostParams::default(), &self.event(&record, namespace)).await?;
        if self.known.len() >= REMEMBERED {
            let middle = median(self.known.values().map(|written| written.at));
            self.known.retain(|_, written| written.at > middle);
        }
        self.known.insert(identity, Written { name: event.name_any(), count: 1, at: record.at });
        Ok(())
    }

    fn event(&self, record: &Record, namespace: String) -> Event {
        let name = format!(
            "{}.{:x}",
            record.object.name.as_deref().unwrap_or("node"),
            (u128::from(record.at.millis().unsigned_abs()) << 20) | u128::from(rand::random::<u32>() >> 12)
        );
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
            involved_object: record.object.clone(),
            type_: Some(if record.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(record.reason.to_owned()),
            message: Some(record.message.clone()),
            count: Some(1),
            first_timestamp: Some(record.at.time()),
            last_timestamp: Some(record.at.time()),
            source: Some(EventSource { component: Some("kubelet".to_owned()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        }
    }
}

fn median(moments: impl Iterator<Item = Moment>) -> Moment {
    let mut all: Vec<Moment> = moments.collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(Moment::from_millis(0))
}
