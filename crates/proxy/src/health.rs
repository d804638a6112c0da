//! /healthz and /livez (KEP-3836): whether this node may get traffic from load balancers, and whether the proxy works.
//! Not responsible for the health-check ports of Services.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::status::Status;

/// Twice kube-proxy's sync period: an update pending for longer means the proxy is stuck.
const STUCK: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("cannot listen for health probes on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

pub(crate) async fn serve(listener: TcpListener, status: Status, token: CancellationToken) {
    runtime::probes::serve(listener, token, move |request| answer(request, &status)).await;
}

fn answer(request: &Request<Incoming>, status: &Status) -> Response<Full<Bytes>> {
    let progress = status.progress();
    let working = progress.pending_since.values().all(|since| Instant::now().duration_since(*since) < STUCK);
    let healthy = match request.uri().path() {
        "/healthz" => working && progress.node_eligible,
        "/livez" => working,
        _ => return respond(StatusCode::NOT_FOUND, String::new()),
    };
    let time = |at: SystemTime| Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default();
    let now = SystemTime::now();
    let body = serde_json::json!({
        // With nothing pending, everything is up to date as of now.
        "lastUpdated": time(progress.last_updated.filter(|_| !progress.pending_since.is_empty()).unwrap_or(now)),
        "currentTime": time(now),
        "nodeEligible": progress.node_eligible,
    });
    respond(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
}

fn respond(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", hyper::header::HeaderValue::from_static("nosniff"));
    response
}
