//! For tests: a runtime and an API in memory, and directories that go away.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use pod_runtime::*;
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast};

/// A directory under the system's temporary one.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("node-test-{}-{:x}", std::process::id(), rand::random::<u64>()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn seconds() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[derive(Default)]
struct Machine {
    sandboxes: BTreeMap<SandboxId, SandboxStatus>,
    containers: BTreeMap<ContainerId, (ContainerStatus, ContainerSpec)>,
    images: BTreeMap<String, ImageStatus>,
    calls: Vec<String>,
    exec_code: i32,
    /// The kernel's part: a container of this image ends at once with this code.
    exits: BTreeMap<String, i32>,
}

/// Runs pods in memory.
pub struct FakeRuntime {
    machine: Mutex<Machine>,
    changes: broadcast::Sender<Changed>,
}

impl FakeRuntime {
    /// It has the image `app`, which runs until it's stopped, and `exit-N`, which ends with code N at once.
    pub fn new() -> Arc<Self> {
        let runtime = FakeRuntime { machine: Mutex::default(), changes: broadcast::channel(64).0 };
        for name in ["app", "exit-0", "exit-1"] {
            runtime.load(name);
        }
        for code in [0, 1] {
            runtime.machine().exits.insert(format!("exit-{code}"), code);
        }
        Arc::new(runtime)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    pub fn load(&self, name: &str) {
        let (id, tags) = (format!("sha256:{name}"), vec![name.to_owned()]);
        let image = ImageStatus { id, tags, size_bytes: 1, stop_signal: 15, user: String::new() };
        self.machine().images.insert(name.to_owned(), image);
    }

    pub fn calls(&self) -> Vec<String> {
        self.machine().calls.clone()
    }

    pub fn exec_answers(&self, code: i32) {
        self.machine().exec_code = code;
    }

    pub fn spec_of(&self, name: &str) -> Option<ContainerSpec> {
        self.machine().containers.values().rev().find(|(status, _)| status.name == name).map(|(_, spec)| spec.clone())
    }

    /// The container's process ends by itself.
    pub fn exit(&self, name: &str, code: i32) {
        let mut machine = self.machine();
        let sandbox = end(&mut machine, |status| status.name == name, code);
        drop(machine);
        for sandbox in sandbox {
            let _ = self.changes.send(Changed { sandbox });
        }
    }

    /// The sandbox's processes are gone, as after a kill of what held it.
    pub fn lose_sandboxes(&self) {
        let mut machine = self.machine();
        machine.containers.clear();
        let lost: Vec<_> = std::mem::take(&mut machine.sandboxes).into_keys().collect();
        drop(machine);
        for sandbox in lost {
            let _ = self.changes.send(Changed { sandbox });
        }
    }

    pub fn is_empty(&self) -> bool {
        let machine = self.machine();
        machine.sandboxes.is_empty() && machine.containers.is_empty()
    }
}

fn end(machine: &mut Machine, which: impl Fn(&ContainerStatus) -> bool, code: i32) -> Vec<SandboxId> {
    let mut touched = Vec::new();
    for (status, _) in machine.containers.values_mut() {
        if let (true, ContainerState::Running { started_at }) = (which(status), &status.state) {
            let reason = if code == 0 { "Completed" } else { "Error" };
            status.state = ContainerState::Exited(Exit {
                code,
                signal: None,
                started_at: *started_at,
                finished_at: seconds(),
                reason: reason.into(),
                message: String::new(),
            });
            touched.push(status.sandbox.clone());
        }
    }
    touched
}

#[async_trait]
impl PodRuntime for FakeRuntime {
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<SandboxStatus, RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("sandbox {}", spec.id.0));
        let addresses = match spec.network {
            SandboxNetwork::Pod => vec!["127.0.0.1".parse().unwrap()],
            SandboxNetwork::Node => vec![],
        };
        let status = SandboxStatus {
            spec: spec.clone(),
            ready: true,
            addresses,
            network_namespace: None,
            created_at: seconds(),
        };
        Ok(machine.sandboxes.entry(spec.id.clone()).or_insert(status).clone())
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("stop-sandbox {}", id.0));
        end(&mut machine, |status| &status.sandbox == id, 137);
        machine.sandboxes.get_mut(id).ok_or_else(|| RuntimeError::NoSandbox(id.clone()))?.ready = false;
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("remove-sandbox {}", id.0));
        machine.sandboxes.remove(id);
        machine.containers.retain(|_, (status, _)| &status.sandbox != id);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.machine().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: &ContainerSpec) -> Result<ContainerId, RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("create {}/{}", spec.name, spec.attempt));
        let id = ContainerId(format!("{}.{}.{}", sandbox.0, spec.name, spec.attempt));
        let status = ContainerStatus {
            id: id.clone(),
            sandbox: sandbox.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
            image: spec.image.clone(),
            image_id: format!("sha256:{}", spec.image),
            state: ContainerState::Created,
            log_path: spec.log_path.clone(),
            annotations: BTreeMap::new(),
        };
        machine.containers.entry(id.clone()).or_insert((status, spec.clone()));
        Ok(id)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        let exits = machine.exits.clone();
        let (status, _) = machine.containers.get_mut(id).ok_or_else(|| RuntimeError::NoContainer(id.clone()))?;
        let (name, attempt, sandbox) = (status.name.clone(), status.attempt, status.sandbox.clone());
        status.state = ContainerState::Running { started_at: seconds() };
        if let Some(code) = exits.get(&status.image).copied() {
            end(&mut machine, |status| &status.id == id, code);
        }
        machine.calls.push(format!("start {name}/{attempt}"));
        drop(machine);
        let _ = self.changes.send(Changed { sandbox });
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        let name = machine.containers.get(id).map(|(status, _)| status.name.clone()).unwrap_or_default();
        machine.calls.push(format!("stop {name} {signal} {}", grace.as_secs()));
        end(&mut machine, |status| &status.id == id, 128 + signal);
        Ok(())
    }

    async fn end_with_node(&self, id: &ContainerId, signal: i32) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        let name = machine.containers.get(id).map(|(status, _)| status.name.clone()).unwrap_or_default();
        machine.calls.push(format!("end {name} {signal}"));
        end(&mut machine, |status| &status.id == id, 137);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("remove {}", id.0));
        machine.containers.remove(id);
        Ok(())
    }

    async fn containers(&self, sandbox: Option<&SandboxId>) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let machine = self.machine();
        let all = machine.containers.values().map(|(status, _)| status.clone());
        Ok(all.filter(|status| sandbox.is_none_or(|id| id == &status.sandbox)).collect())
    }

    async fn exec(&self, _: &ContainerId, command: &[String], _: Duration) -> Result<ExecOutput, RuntimeError> {
        let mut machine = self.machine();
        machine.calls.push(format!("exec {}", command.join(" ")));
        Ok(ExecOutput { exit_code: machine.exec_code, stdout: b"said".to_vec(), stderr: Vec::new() })
    }

    async fn written_bytes(&self, _: &ContainerId) -> Result<u64, RuntimeError> {
        Ok(0)
    }

    async fn refused_forks(&self, _: &ContainerId) -> Result<u64, RuntimeError> {
        Ok(0)
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageStatus>, RuntimeError> {
        if reference.contains(char::is_uppercase) {
            let (reference, message) = (reference.to_owned(), "invalid reference format".to_owned());
            return Err(RuntimeError::InvalidImageName { reference, message });
        }
        Ok(self.machine().images.get(reference).cloned())
    }

    async fn pull(&self, reference: &str, secrets: &[PullSecret]) -> Result<ImageStatus, RuntimeError> {
        let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
        self.machine().calls.push(format!("pull {reference} {}", names.join(",")).trim_end().to_owned());
        Err(RuntimeError::Pull { reference: reference.to_owned(), message: "no registry here".to_owned() })
    }

    async fn images(&self) -> Result<Vec<ImageStatus>, RuntimeError> {
        Ok(self.machine().images.values().cloned().collect())
    }

    fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }
}

#[derive(Default)]
struct Stored {
    version: u64,
    /// By path: `/api/v1/namespaces/default/pods/web`.
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, String, Value)>,
}

/// Enough of an API server: get, list, watch, create, merge patch, status, replace, graceful delete.
#[derive(Clone, Default)]
pub struct FakeApi {
    stored: Arc<Mutex<Stored>>,
    written: Arc<Notify>,
}

type Answer = http::Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

impl FakeApi {
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.stored.lock().unwrap().objects.get(path).cloned()
    }

    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let stored = self.stored.lock().unwrap();
        stored.objects.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut stored = self.stored.lock().unwrap();
        stored.version += 1;
        let (version, name) = (stored.version, path.rsplit('/').next().unwrap().to_owned());
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["name"] = json!(name);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{version}"));
        }
        let kind = if stored.objects.insert(path.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        stored.history.push((version, path.to_owned(), json!({"type": kind, "object": object})));
        drop(stored);
        self.written.notify_waiters();
        object
    }

    pub fn remove(&self, path: &str) {
        let mut stored = self.stored.lock().unwrap();
        stored.version += 1;
        let version = stored.version;
        if let Some(mut object) = stored.objects.remove(path) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            stored.history.push((version, path.to_owned(), json!({"type": "DELETED", "object": object})));
        }
        drop(stored);
        self.written.notify_waiters();
    }

    /// Deletes as a user would: gracefully.
    pub fn delete(&self, path: &str, grace: i64) {
        let mut object = self.get(path).unwrap();
        object["metadata"]["deletionTimestamp"] = json!(crate::clock::time_of(seconds() + grace));
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(path, object);
    }

    /// Waits until the object at `path` (Null when there is none) is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let written = self.written.notified();
                tokio::pin!(written);
                written.as_mut().enable();
                let object = self.get(path).unwrap_or(Value::Null);
                if wanted(&object) {
                    return object;
                }
                written.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(object) => object,
            Err(_) => panic!("{path} didn't become as wanted: {:#}", self.get(path).unwrap_or(Value::Null)),
        }
    }

    /// Waits for an Event with this reason whose message holds `text`.
    pub async fn event(&self, reason: &str, text: &str) -> Value {
        let wait = async {
            loop {
                let written = self.written.notified();
                tokio::pin!(written);
                written.as_mut().enable();
                let found = self.list("/api/v1/namespaces/default/events/").into_iter().find(|event| {
                    event["reason"] == reason && event["message"].as_str().is_some_and(|message| message.contains(text))
                });
                if let Some(event) = found {
                    return event;
                }
                written.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(event) => event,
            Err(_) => panic!("no Event {reason} {text:?}: {:#?}", self.list("/api/v1/namespaces/default/events/")),
        }
    }

    async fn serve(&self, request: http::Request<kube::client::Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or("").to_owned();
        let body: Value = match body.collect().await {
            Ok(body) => serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null),
            Err(_) => Value::Null,
        };
        let object_path = path.strip_suffix("/status").unwrap_or(&path);
        match parts.method.as_str() {
            "GET" if query.contains("watch=true") => self.watch(&path, &query),
            "GET" if is_collection(&path) => self.collection(&path),
            "GET" => self.get(&path).map_or_else(not_found, answer),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap_or("generated").to_owned();
                let path = format!("{path}/{name}");
                if self.get(&path).is_some() {
                    return status(409, "AlreadyExists");
                }
                answer(self.put(&path, body))
            }
            "PUT" => answer(self.put(object_path, body)),
            "PATCH" => match self.get(object_path) {
                None => not_found(),
                Some(mut object) => {
                    merge(&mut object, &body);
                    answer(self.put(object_path, object))
                }
            },
            "DELETE" => {
                let Some(object) = self.get(&path) else { return not_found() };
                let uid = &body["preconditions"]["uid"];
                if !uid.is_null() && uid != &object["metadata"]["uid"] {
                    return status(409, "Conflict");
                }
                self.remove(&path);
                answer(object)
            }
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn collection(&self, path: &str) -> Answer {
        let stored = self.stored.lock().unwrap();
        let items: Vec<_> =
            stored.objects.iter().filter(|(known, _)| in_collection(known, path)).map(|(_, o)| o.clone()).collect();
        let version = stored.version.to_string();
        answer(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}))
    }

    fn watch(&self, path: &str, query: &str) -> Answer {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap_or("0");
        let from: u64 = from.parse().unwrap_or(0);
        let state = (self.clone(), from, path.to_owned());
        let lines = futures::stream::unfold(state, |(api, from, path)| async move {
            loop {
                let written = api.written.clone();
                let written = written.notified();
                tokio::pin!(written);
                written.as_mut().enable();
                let next = {
                    let stored = api.stored.lock().unwrap();
                    let mut history = stored.history.iter();
                    history.find(|(at, known, _)| *at > from && in_collection(known, &path)).cloned()
                };
                if let Some((at, _, event)) = next {
                    let line = Bytes::from(format!("{event}\n"));
                    return Some((Ok::<_, Infallible>(Frame::data(line)), (api, at, path)));
                }
                written.await;
            }
        });
        http::Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
    }
}

/// `/api/v1/pods` lists all namespaces' `/api/v1/namespaces/NS/pods/NAME`.
fn in_collection(object: &str, collection: &str) -> bool {
    let Some((parent, _)) = object.rsplit_once('/') else { return false };
    if parent == collection {
        return true;
    }
    let (Some((group, kind)), false) = (collection.rsplit_once('/'), collection.contains("/namespaces/")) else {
        return false;
    };
    parent.starts_with(&format!("{group}/namespaces/")) && parent.ends_with(&format!("/{kind}"))
}

fn is_collection(path: &str) -> bool {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let after_version = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    matches!(after_version, [_] | ["namespaces", _, _])
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in fields {
        match value {
            Value::Null => {
                if let Some(object) = target.as_object_mut() {
                    object.remove(key);
                }
            }
            value => merge(&mut target[key], value),
        }
    }
}

fn answer(value: Value) -> Answer {
    http::Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync())
}

fn not_found() -> Answer {
    status(404, "NotFound")
}

fn status(code: u16, reason: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code});
    let mut answer = answer(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}
