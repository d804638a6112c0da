//! What others ask about the server itself: is it alive (`/health`), is it complete (`/ready`), what it counts
//! (`/metrics`).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::metrics::Metrics;
use crate::watch::Published;

pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, transport: "HTTP", source })
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, view: Published, metrics: Arc<Metrics>, stop: CancellationToken) {
    runtime::probes::serve(listener, stop, move |request| respond(request, &view, &metrics)).await;
}

fn respond(request: &Request<Incoming>, view: &Published, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/health" => (StatusCode::OK, "OK".to_owned()),
        "/ready" if view.load().synced => (StatusCode::OK, "OK".to_owned()),
        "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "kubernetes".to_owned()),
        "/metrics" => (StatusCode::OK, metrics.text()),
        _ => (StatusCode::NOT_FOUND, "/health, /ready and /metrics are here".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
