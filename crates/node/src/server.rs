//! Kubelet's HTTP paths on a unix socket, for the API server: container logs, the pod list, health.
//!
//! Whoever can open the socket is trusted: it lies in a directory of the node's own. Not responsible for
//! authorization. `exec`, `attach` and `portForward` belong beside `container_logs` here.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod_runtime::{ContainerState, PodRuntime};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Pods;
use crate::error::Error;
use crate::logs::{self, LogError, LogQuery};
use crate::pod::Shared;
use crate::pod::observed::reported_container;
use crate::pod::spec::{self, PodKey};

/// Open connections; more wait.
const CONNECTIONS: usize = 256;
/// Lines of a log on their way to a reader.
const LINES: usize = 64;
/// How long connections may finish when the agent stops.
const DRAIN: Duration = Duration::from_millis(200);

type Body = UnsyncBoxBody<Bytes, LogError>;

/// Listens, in place of whatever an earlier agent left.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(failed)
}

/// Serves until stopped.
pub async fn serve(listener: UnixListener, shared: Arc<Shared>, pods: Pods, stop: CancellationToken) {
    let server = Arc::new(Server { shared, pods });
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let server = server.clone();
                    connections.spawn(async move {
                        server.connection(stream).await;
                        drop(turn);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(DRAIN).await;
                }
            },
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

struct Server {
    shared: Arc<Shared>,
    pods: Pods,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the agent ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served".to_owned());
        }
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        match path.as_slice() {
            ["healthz"] => text(StatusCode::OK, "ok".to_owned()),
            ["pods"] => self.list(),
            ["containerLogs", namespace, pod, container] => {
                let query = request.uri().query().unwrap_or("");
                self.container_logs(namespace, pod, container, query).await
            }
            _ => text(StatusCode::NOT_FOUND, format!("no such path: {}", request.uri().path())),
        }
    }

    fn all(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn list(&self) -> Response<Body> {
        let pods: Vec<serde_json::Value> =
            self.all().iter().map(|pod| serde_json::to_value(&**pod).unwrap_or_default()).collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        let mut answer = text(StatusCode::OK, list.to_string());
        let json = http::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
        answer
    }

    async fn container_logs(&self, namespace: &str, name: &str, container: &str, query: &str) -> Response<Body> {
        let query = match LogQuery::parse(query) {
            Ok(query) => query,
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        // Of two with the name, the one that isn't on its way out.
        let mut pods = self.all();
        pods.retain(|pod| pod.metadata.namespace.as_deref() == Some(namespace));
        pods.retain(|pod| pod.metadata.name.as_deref() == Some(name));
        pods.sort_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
        let Some(pod) = pods.first() else {
            return text(StatusCode::NOT_FOUND, format!("pod \"{namespace}/{name}\" not found"));
        };
        if spec::member(pod, container).is_none() {
            let message = format!("container {container:?} not found in pod \"{namespace}/{name}\"");
            return text(StatusCode::NOT_FOUND, message);
        }
        let dir = self.shared.config.log_dir(&PodKey::of(pod)).join(container);
        match logs::find(&dir, query.previous).await {
            Some(file) => self.stream(file, query),
            None if query.previous => {
                let message = format!("previous terminated container {container:?} in pod {name:?} not found");
                text(StatusCode::BAD_REQUEST, message)
            }
            None => text(StatusCode::BAD_REQUEST, waiting(pod, name, container)),
        }
    }

    fn stream(&self, file: logs::LogFile, query: LogQuery) -> Response<Body> {
        let (out, lines) = mpsc::channel(LINES);
        let runtime = self.shared.runtime.clone();
        let path = file.0.clone();
        let running = move || {
            let (runtime, path) = (runtime.clone(), path.clone());
            async move { is_running(&*runtime, &path).await }
        };
        // The reader belongs to the answer's body: it ends with the connection.
        let mut reader = JoinSet::new();
        reader.spawn(logs::read(file, query, Timestamp::now(), running, out));
        let lines = futures::stream::unfold((lines, reader), |(mut lines, reader)| async move {
            lines.recv().await.map(|line| (line.map(Frame::data), (lines, reader)))
        });
        let mut answer = Response::new(StreamBody::new(lines.boxed()).boxed_unsync());
        let plain = http::HeaderValue::from_static("text/plain");
        answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        answer
    }
}

async fn is_running(runtime: &dyn PodRuntime, log: &Path) -> bool {
    let containers = runtime.containers(None).await.unwrap_or_default();
    containers.iter().any(|c| c.log_path == log && !matches!(c.state, ContainerState::Exited(_)))
}

fn waiting(pod: &Pod, name: &str, container: &str) -> String {
    let status = pod.status.as_ref().and_then(|status| reported_container(status, container));
    let waiting = status.and_then(|status| status.state.as_ref()).and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("ContainerCreating");
    let why = match reason {
        "ErrImagePull" | "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
        other => other.to_owned(),
    };
    format!("container {container:?} in pod {name:?} is waiting to start: {why}")
}

fn text(status: StatusCode, message: String) -> Response<Body> {
    let body = Full::new(Bytes::from(message)).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}
