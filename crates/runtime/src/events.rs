//! Posts core/v1 Events. A note that repeats raises the count of the Event it made instead of making another, and an
//! object that much is told about is told about less. Not responsible for wording them, and never a reason for the caller
//! to wait: when the API server is too slow, notes are dropped with a line in the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use rand::RngExt;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteKind {
    Normal,
    Warning,
}

/// What is to be told about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub kind: NoteKind,
    /// CamelCase, for machines.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Note {
    pub fn normal<K: Resource<DynamicType = ()>>(about: &K, reason: &str, message: impl Into<String>) -> Self {
        Self { about: about.object_ref(&()), kind: NoteKind::Normal, reason: reason.into(), message: message.into() }
    }

    pub fn warning<K: Resource<DynamicType = ()>>(about: &K, reason: &str, message: impl Into<String>) -> Self {
        Self { kind: NoteKind::Warning, ..Self::normal(about, reason, message) }
    }
}

/// Takes notes. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    notes: mpsc::Sender<(Note, Timestamp)>,
}

/// By whom notes are posted, and for which node.
#[derive(Clone)]
pub struct Speaker {
    pub client: Client,
    /// The node that all notes are from; controllers have none.
    pub host: Option<String>,
}

/// Posts what a recorder takes.
pub struct Publisher {
    speaker: watch::Receiver<Speaker>,
    component: &'static str,
    notes: mpsc::Receiver<(Note, Timestamp)>,
    known: HashMap<Identity, Known>,
    allowances: HashMap<(String, String), Allowance>,
}

/// Notes equal in all of this are one Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    namespace: String,
    uid: String,
    object: (String, String),
    /// Which part of the object: a container, say.
    field_path: Option<String>,
    kind: NoteKind,
    reason: String,
    message: String,
}

struct Known {
    name: String,
    count: i32,
    written: Instant,
}

/// How much may still be told about an object.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    notes: f64,
    at: Instant,
}

/// Per object, as client-go has it: so many notes at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// For half a minute, as long as a pod that fills the disk may take to be evicted.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);
/// Notes that may wait to be posted.
const QUEUE: usize = 1024;
/// Events remembered for counting.
const REMEMBERED: usize = 4096;
/// A note that keeps repeating is written at most this often; the count catches up with the next write.
const REPEAT: Duration = Duration::from_secs(10);
/// Where Events about cluster-scoped objects live.
const CLUSTER_NAMESPACE: &str = "default";

/// A recorder and the task that posts its notes in the name of `component`.
pub fn recorder(client: Client, component: &'static str) -> (Recorder, Publisher) {
    recorder_by(watch::channel(Speaker { client, host: None }).1, component)
}

/// The same by whoever the speaker is at the time a note is posted.
pub fn recorder_by(speaker: watch::Receiver<Speaker>, component: &'static str) -> (Recorder, Publisher) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (known, allowances) = (HashMap::new(), HashMap::new());
    (Recorder { notes: sender }, Publisher { speaker, component, notes: receiver, known, allowances })
}

impl Recorder {
    pub fn publish(&self, note: Note) {
        if let Err(error) = self.notes.try_send((note, Timestamp::now())) {
            tracing::warn!(%error, "an event could not be queued and is lost");
        }
    }
}

impl Publisher {
    /// Names the node that all notes are from.
    pub fn on_host(mut self, host: &str) -> Self {
        let client = self.speaker.borrow().client.clone();
        self.speaker = watch::channel(Speaker { client, host: Some(host.to_owned()) }).1;
        self
    }

    /// Posts notes until cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                note = self.notes.recv() => match note {
                    Some((note, time)) => tokio::select! {
                        () = token.cancelled() => return,
                        () = self.post(note, time, Instant::now()) => {}
                    },
                    // Every recorder is gone; the owner still decides when tasks end.
                    None => return token.cancelled().await,
                },
            }
        }
    }

    async fn post(&mut self, note: Note, time: Timestamp, at: Instant) {
        let identity = identity(&note);
        if !self.allows(&identity, at) {
            return;
        }
        if let Some(known) = self.known.get_mut(&identity) {
            known.count += 1;
            if at.duration_since(known.written) < REPEAT {
                return;
            }
            let patch = json!({ "count": known.count, "lastTimestamp": Time(time) });
            let api = api(&self.speaker, &identity.namespace);
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    known.written = at;
                    return;
                }
                Err(error) => tracing::debug!(%error, "an event cannot be counted up, posting it anew"),
            }
        }
        let event = self.event(&note, &identity, time);
        match persist(&self.speaker, &identity.namespace, &event).await {
            Ok(created) => self.remember(identity, created.metadata.name.unwrap_or_default(), at),
            Err(error) => tracing::warn!(%error, reason = note.reason, "an event cannot be posted"),
        }
    }

    fn allows(&mut self, identity: &Identity, at: Instant) -> bool {
        if self.allowances.len() >= REMEMBERED {
            self.allowances.clear();
        }
        let object = (identity.uid.clone(), identity.object.1.clone());
        let allowance = self.allowances.entry(object).or_insert(Allowance { notes: BURST, at });
        let gained = at.duration_since(allowance.at).as_secs_f64() / REFILL.as_secs_f64();
        *allowance = Allowance { notes: (allowance.notes + gained).min(BURST), at };
        let allowed = allowance.notes >= 1.0;
        if allowed {
            allowance.notes -= 1.0;
        }
        allowed
    }

    fn remember(&mut self, identity: Identity, name: String, written: Instant) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(identity, Known { name, count: 1, written });
    }

    fn event(&self, note: &Note, identity: &Identity, time: Timestamp) -> Event {
        let suffix: u64 = rand::rng().random();
        let now = Time(time);
        let host = self.speaker.borrow().host.clone();
        Event {
            metadata: ObjectMeta {
                namespace: Some(identity.namespace.clone()),
                name: Some(format!("{}.{suffix:016x}", identity.object.1)),
                ..ObjectMeta::default()
            },
            involved_object: note.about.clone(),
            type_: Some(format!("{:?}", note.kind)),
            reason: Some(note.reason.clone()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: host.clone() }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(host.unwrap_or_default()),
            ..Event::default()
        }
    }
}

fn api(speaker: &watch::Receiver<Speaker>, namespace: &str) -> Api<Event> {
    Api::namespaced(speaker.borrow().client.clone(), namespace)
}

/// Posts an Event again while the API server can't take it: what is worth telling often happens when it is in trouble (a
/// full disk). The notes behind it wait in the queue.
async fn persist(speaker: &watch::Receiver<Speaker>, namespace: &str, event: &Event) -> kube::Result<Event> {
    let mut tries = 1;
    loop {
        let posted = api(speaker, namespace).create(&PostParams::default(), event).await;
        let trouble = match &posted {
            Err(kube::Error::Api(status)) => status.code >= 500,
            other => other.is_err(),
        };
        if !trouble || tries == TRIES {
            return posted;
        }
        tries += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

fn identity(note: &Note) -> Identity {
    let about = &note.about;
    let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
    Identity {
        namespace: namespace.unwrap_or_else(|| CLUSTER_NAMESPACE.to_owned()),
        uid: about.uid.clone().unwrap_or_default(),
        object: (about.kind.clone().unwrap_or_default(), about.name.clone().unwrap_or_default()),
        field_path: about.field_path.clone(),
        kind: note.kind,
        reason: note.reason.clone(),
        message: note.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::Value;
    use tower::service_fn;

    use super::*;

    type Calls = Arc<Mutex<Vec<(Method, String, Value)>>>;

    /// Answers every request with its own body and remembers it.
    fn echo(calls: Calls) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let calls = calls.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.expect("a body in memory");
                let value: Value = serde_json::from_slice(&bytes).expect("JSON");
                let mut answer = value.clone();
                answer["metadata"]["name"] = value["metadata"]["name"].as_str().unwrap_or("kept").into();
                answer["involvedObject"] = value.get("involvedObject").cloned().unwrap_or_else(|| json!({}));
                calls.lock().expect("no panics under the lock").push((parts.method, parts.uri.to_string(), value));
                Ok::<_, Infallible>(Response::new(Body::from(answer.to_string().into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_repeated_note_counts_up_one_event() {
        let calls = Calls::default();
        let (_, mut publisher) = recorder(echo(calls.clone()), "test");
        let metadata = ObjectMeta { name: Some("p".into()), namespace: Some("ns".into()), ..ObjectMeta::default() };
        let pod = Pod { metadata, ..Pod::default() };
        let note = Note::warning(&pod, "FailedScheduling", "0/1 nodes are available");
        let start = Instant::now();
        let now = Timestamp::now();
        publisher.post(note.clone(), now, start).await;
        publisher.post(note.clone(), now, start).await;
        publisher.post(note.clone(), now, start + REPEAT).await;
        publisher.post(Note::normal(&pod, "Scheduled", "assigned"), now, start + REPEAT).await;

        let calls = calls.lock().unwrap();
        let methods: Vec<_> = calls.iter().map(|(method, ..)| method.as_str()).collect();
        assert_eq!(methods, ["POST", "PATCH", "POST"]);
        assert!(calls[0].1.starts_with("/api/v1/namespaces/ns/events"));
        assert_eq!(calls[0].2["type"], "Warning");
        assert_eq!(calls[0].2["involvedObject"]["name"], "p");
        assert_eq!(calls[1].2["count"], 3);
    }

    #[tokio::test]
    async fn a_note_is_posted_again_when_the_server_was_in_trouble() {
        let calls = Arc::new(Mutex::new(0));
        let counted = calls.clone();
        let service = service_fn(move |request: Request<Body>| {
            let first = {
                let mut calls = counted.lock().expect("no panics under the lock");
                *calls += 1;
                *calls == 1
            };
            async move {
                let bytes = request.into_body().collect_bytes().await.expect("a body in memory");
                let full =
                    json!({ "kind": "Status", "status": "Failure", "message": "full", "reason": "", "code": 507 });
                let (code, body) = if first { (507, full.to_string().into_bytes()) } else { (201, bytes.to_vec()) };
                Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(body)).expect("an answer"))
            }
        });
        let (_, mut publisher) = recorder(Client::new(service, "default"), "test");
        let note = Note::warning(&Pod::default(), "Evicted", "The node was low on resource");
        publisher.post(note, Timestamp::now(), Instant::now()).await;
        assert_eq!(*calls.lock().unwrap(), 2);
        assert_eq!(publisher.known.len(), 1);
    }

    #[tokio::test]
    async fn notes_are_the_present_speakers() {
        let (first, second) = (Calls::default(), Calls::default());
        let speaker = |calls: &Calls, host: &str| Speaker { client: echo(calls.clone()), host: Some(host.to_owned()) };
        let (turn, speakers) = watch::channel(speaker(&first, "one"));
        let (_, mut publisher) = recorder_by(speakers, "test");
        let note = Note::normal(&Pod::default(), "Said", "once");
        publisher.post(note.clone(), Timestamp::now(), Instant::now()).await;
        turn.send_replace(speaker(&second, "two"));
        publisher.post(Note { message: "again".into(), ..note }, Timestamp::now(), Instant::now()).await;
        for (calls, host) in [(first, "one"), (second, "two")] {
            let calls = calls.lock().unwrap();
            let hosts: Vec<_> = calls.iter().map(|(.., event)| &event["source"]["host"]).collect();
            assert_eq!(hosts, [host]);
        }
    }

    #[tokio::test]
    async fn a_flood_about_one_object_is_thinned_out_and_others_are_heard() {
        let calls = Calls::default();
        let (_, publisher) = recorder(echo(calls.clone()), "test");
        let mut publisher = publisher.on_host("n1");
        let pod = |name: &str| {
            let metadata = ObjectMeta { name: Some(name.into()), uid: Some(name.into()), ..ObjectMeta::default() };
            Pod { metadata, ..Pod::default() }
        };
        let (now, start) = (Timestamp::now(), Instant::now());
        for number in 0..100 {
            publisher.post(Note::normal(&pod("a"), "Noise", format!("{number}")), now, start).await;
        }
        publisher.post(Note::normal(&pod("b"), "Quiet", "heard"), now, start).await;
        publisher.post(Note::normal(&pod("a"), "Noise", "later"), now, start + REFILL).await;
        let calls = calls.lock().unwrap();
        let about: Vec<_> = calls.iter().map(|(.., event)| event["message"].as_str().unwrap_or_default()).collect();
        assert_eq!(about.len(), 27);
        assert_eq!(about[25..], ["heard", "later"]);
        assert_eq!(calls[0].2["source"]["host"], "n1");
    }
}
