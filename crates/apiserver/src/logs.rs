//! `pods/log`: passing a container's log through from the node that has it, piece by piece.
//!
//! Speaks kubelet's HTTP paths to the node's agent. Not responsible for logs themselves.

use std::io;
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
    // The connection must be driven while its response is read; it ends with the response.
    let mut driver = Box::pin(driver);
    let response = tokio::select! {
        response = sender.send_request(request) => response.map_err(|error| unreachable(&error))?,
        end = &mut driver => return Err(unreachable(&match end {
            Ok(()) => "the node closed the connection".to_owned(),
            Err(error) => error.to_string(),
        })),
    };
    if response.status() != StatusCode::OK {
        return Err(Box::new(refusal(response, driver).await));
    }
    Ok(plain(passed_through(response.into_body(), driver)))
}

/// A body that drives its own connection, so that no task is left behind when the client goes away.
fn passed_through<D>(body: Incoming, driver: std::pin::Pin<Box<D>>) -> Body
where
    D: Future<Output = hyper::Result<()>> + Send + 'static,
{
    let frames = BodyStream::new(body).try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
    let frames = frames.map_err(boxed);
    let state = (Box::pin(frames), Some(driver));
    stream(futures::stream::unfold(state, |(mut frames, mut driver)| async move {
        loop {
            let Some(active) = driver.as_mut() else {
                let next = frames.try_next().await.transpose()?;
                return Some((next, (frames, driver)));
            };
            tokio::select! {
                biased;
                next = frames.try_next() => {
                    let next = next.transpose()?;
                    return Some((next, (frames, driver)));
                }
                // The connection is done; what it has read may still be waiting.
                _ = active => driver = None,
            }
        }
    }))
}

fn boxed(error: hyper::Error) -> BoxError {
    Box::new(error)
}

async fn refusal(response: Response<Incoming>, driver: impl Future<Output = hyper::Result<()>>) -> Status {
    let code = response.status();
    let read = Limited::new(response.into_body(), REFUSAL).collect();
    let text = tokio::select! {
        text = read => text.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        _ = driver => bytes::Bytes::new(),
    };
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
