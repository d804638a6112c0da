//! `pods/log`: passing a container's log through from the node that has it, piece by piece.
//!
//! Speaks kubelet's HTTP paths to the node's agent. Not responsible for logs themselves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use api::status::Status;
use api::tree;
use async_trait::async_trait;
use futures::TryStreamExt;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::body::{Body, BoxError, full, stream};
use crate::http::query::Query;
use crate::registry::Answer;

/// A byte stream in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncReadWrite for T {}

/// How the server reaches the agent of a node.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// A fresh connection on which the agent speaks HTTP/1.1.
    async fn dial(&self, node: &str) -> io::Result<Box<dyn AsyncReadWrite>>;
}

/// The parameters that the agent understands; `follow` and the like are its business.
const PASSED: &[&str] =
    &["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// How much of an agent's refusal is repeated to the client.
const REFUSAL: usize = 8 * 1024;

/// GET of a pod's log.
pub async fn log(dialer: &Arc<dyn NodeDialer>, pod: &Value, query: &Query) -> Answer<Response<Body>> {
    let name = tree::text(&pod["metadata"]["name"]);
    let container = container(pod, name, query.text("container"))?;
    let node = tree::text(&pod["spec"]["nodeName"]);
    if node.is_empty() {
        // Nothing runs yet, so nothing has been said yet.
        return Ok(plain(full("")));
    }
    let namespace = tree::text(&pod["metadata"]["namespace"]);
    let path = format!("/containerLogs/{namespace}/{name}/{container}{}", parameters(query));
    let unreachable =
        |why: &dyn std::fmt::Display| Box::new(Status::internal(format!("asking node {node:?} for {path}: {why}")));
    let connection = dialer.dial(node).await.map_err(|error| unreachable(&error))?;
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(|error| unreachable(&error))?;
    let request = Request::get(&path)
        .header(HOST, "node")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Box::new(Status::bad_request(error.to_string())))?;
    // The connection must be driven while its response is read; a short answer may be all of it at once.
    let mut driver = Some(Box::pin(driver));
    let mut sending = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = sending.as_mut() => response,
        _ = drive(&mut driver) => sending.await,
    };
    let response = response.map_err(|error| unreachable(&error))?;
    if response.status() != StatusCode::OK {
        return Err(Box::new(refusal(response, driver).await));
    }
    Ok(plain(passed_through(response.into_body(), driver)))
}

/// A connection as long as it lasts.
type Driver<D> = Option<Pin<Box<D>>>;

/// Drives a connection to its end; forever once there is none.
async fn drive<D: Future<Output = hyper::Result<()>>>(driver: &mut Driver<D>) {
    match driver {
        Some(active) => {
            if let Err(error) = active.await {
                tracing::debug!(%error, "a connection to a node ended");
            }
            *driver = None;
        }
        None => std::future::pending().await,
    }
}

/// A body that drives its own connection, so that no task is left behind when the client goes away.
fn passed_through<D>(body: Incoming, driver: Driver<D>) -> Body
where
    D: Future<Output = hyper::Result<()>> + Send + 'static,
{
    let frames = BodyStream::new(body).try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
    let state = (Box::pin(frames.map_err(boxed)), driver);
    stream(futures::stream::unfold(state, |(mut frames, mut driver)| async move {
        loop {
            tokio::select! {
                biased;
                next = frames.try_next() => return next.transpose().map(|next| (next, (frames, driver))),
                // What the connection has read may still be waiting.
                () = drive(&mut driver) => {}
            }
        }
    }))
}

fn boxed(error: hyper::Error) -> BoxError {
    Box::new(error)
}

async fn refusal<D>(response: Response<Incoming>, mut driver: Driver<D>) -> Status
where
    D: Future<Output = hyper::Result<()>>,
{
    let code = response.status();
    let mut read = std::pin::pin!(Limited::new(response.into_body(), REFUSAL).collect());
    let text = tokio::select! {
        biased;
        text = read.as_mut() => text,
        () = drive(&mut driver) => read.await,
    };
    let text = text.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match code {
        StatusCode::NOT_FOUND => Status::not_found(api::status::GroupResource::new("", "pods/log"), &text),
        code if code.is_client_error() => Status::bad_request(text),
        code => Status::internal(format!("the node answered {code}: {text}")),
    }
}

fn plain(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn parameters(query: &Query) -> String {
    let given = PASSED.iter().filter_map(|name| Some((*name, query.text(name)?)));
    let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Percent-encoding of everything but unreserved characters (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The container meant, in upstream's words when there is none (registry/core/pod, LogLocation).
fn container(pod: &Value, name: &str, asked: Option<&str>) -> Answer<String> {
    let names = |field: &str| -> Vec<String> {
        tree::list(&pod["spec"][field]).iter().map(|c| tree::text(&c["name"]).to_owned()).collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    match asked {
        Some(asked) if [&containers, &init, &ephemeral].iter().any(|names| names.iter().any(|n| n == asked)) => {
            Ok(asked.to_owned())
        }
        Some(asked) => Err(Box::new(Status::bad_request(format!("container {asked} is not valid for pod {name}")))),
        None => match &containers[..] {
            [only] => Ok(only.clone()),
            many => {
                let preferred = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
                if let Some(preferred) = preferred.filter(|p| many.iter().any(|n| n == p)) {
                    return Ok(preferred.to_owned());
                }
                let mut why =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                if !init.is_empty() {
                    why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Box::new(Status::bad_request(why)))
            }
        },
    }
}
