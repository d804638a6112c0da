//! What others ask about a proxy. /healthz and /livez (KEP-3836): whether this node may get traffic from load balancers, and
//! whether the proxy works. On the metrics port: /metrics and /proxyMode. Not responsible for the health-check ports of
//! Services (`health_check_ports`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::process::measure;
use crate::metrics::{Family, HEALTHZ, LIVEZ};
use crate::status::{Progress, Status};

/// Twice kube-proxy's sync period: an update pending for longer means the proxy is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// How often a server that could not listen, and may go on without, tries again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
pub(crate) const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// What Prometheus calls its text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}")]
pub struct ListenError {
    address: SocketAddr,
    purpose: &'static str,
    source: std::io::Error,
}

/// A server of this proxy.
#[derive(Clone)]
pub(crate) enum Server {
    Health(Status),
    /// With the name of the mode that is in force.
    Metrics(Status, watch::Receiver<&'static str>),
}

/// The answer to a health probe, in upstream's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

impl Server {
    /// Serves until cancelled. If it can't listen, that is an error, or (`patient`) tried again until it can.
    pub(crate) async fn start(
        self,
        address: SocketAddr,
        patient: bool,
        token: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ListenError> {
        let listener = match self.listen(address).await {
            Ok(listener) => Some(listener),
            Err(error) if patient => {
                let reason = &error.source;
                tracing::warn!(%address, %reason, purpose = error.purpose, "cannot listen, will try again");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => tokio::select! {
                    () = token.cancelled() => return,
                    listener = self.keep_trying(address) => listener,
                },
            };
            runtime::probes::serve(listener, token, move |request| self.answer(request)).await;
        })
    }

    async fn listen(&self, address: SocketAddr) -> Result<TcpListener, ListenError> {
        let purpose = match self {
            Server::Health(_) => "health probes",
            Server::Metrics(..) => "metrics",
        };
        TcpListener::bind(address).await.map_err(|source| ListenError { address, purpose, source })
    }

    async fn keep_trying(&self, address: SocketAddr) -> TcpListener {
        loop {
            tokio::time::sleep(TRY_AGAIN).await;
            if let Ok(listener) = self.listen(address).await {
                return listener;
            }
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (self, request.uri().path()) {
            (Server::Health(status), "/healthz") => probe(status, &HEALTHZ, true),
            (Server::Health(status), "/livez") => probe(status, &LIVEZ, false),
            (Server::Metrics(status, _), "/metrics") => {
                measure(status.metrics());
                respond(StatusCode::OK, METRICS, status.metrics().text())
            }
            (Server::Metrics(_, mode), "/proxyMode") => respond(StatusCode::OK, TEXT, (*mode.borrow()).to_owned()),
            (Server::Metrics(..), "/healthz") => respond(StatusCode::OK, TEXT, "ok".to_owned()),
            _ => respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
        }
    }
}

/// Whether no change has waited for too long.
pub(crate) fn works(status: &Status) -> bool {
    Health::of(&status.progress(), false, Instant::now(), SystemTime::now()).healthy
}

/// `with_node`: whether the node may get traffic counts too.
fn probe(status: &Status, family: &Family, with_node: bool) -> Response<Full<Bytes>> {
    let progress = status.progress();
    let health = Health::of(&progress, with_node, Instant::now(), SystemTime::now());
    let healthy = health.healthy && health.node_eligible != Some(false);
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    status.metrics().increment(family, &[code.as_str()]);
    respond(code, JSON, serde_json::to_string(&health).unwrap_or_default())
}

impl Health {
    fn of(progress: &Progress, with_node: bool, now: Instant, time: SystemTime) -> Health {
        let works = |since: &Instant| now.duration_since(*since) < STUCK;
        let families = progress.last_updated.keys().chain(progress.pending_since.keys());
        let updated = |family| progress.last_updated.get(family).copied().unwrap_or(SystemTime::UNIX_EPOCH);
        // With nothing pending, everything is up to date as of now; each family's own says when it was written, as kube-proxy's.
        let as_of = |family| if progress.pending_since.contains_key(family) { updated(family) } else { time };
        let latest = families.clone().map(as_of).max().unwrap_or(time);
        let status = families.map(|family| {
            let healthy = progress.pending_since.get(family).is_none_or(works);
            (family.address_type(), FamilyHealth { last_updated: shown(updated(family)), healthy })
        });
        Health {
            last_updated: shown(latest),
            current_time: shown(time),
            node_eligible: with_node.then_some(progress.node_eligible),
            healthy: progress.pending_since.values().all(works),
            status: status.collect(),
        }
    }
}

fn shown(time: SystemTime) -> String {
    Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

pub(crate) fn respond(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_model::IpFamily;

    #[test]
    fn a_family_that_is_stuck_makes_the_proxy_unhealthy() {
        let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let since = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut progress = Progress { node_eligible: true, ..Progress::default() };
        progress.last_updated.insert(IpFamily::V4, time - Duration::from_secs(90));
        progress.last_updated.insert(IpFamily::V6, time - Duration::from_secs(90));
        progress.pending_since.insert(IpFamily::V6, since(5));
        let json = |progress: &Progress, node| serde_json::to_string(&Health::of(progress, node, now, time)).unwrap();
        assert_eq!(
            json(&progress, true),
            r#"{"lastUpdated":"1970-01-12T13:46:40Z","currentTime":"1970-01-12T13:46:40Z","nodeEligible":true,"#
                .to_owned()
                + r#""healthy":true,"status":{"IPv4":{"lastUpdated":"1970-01-12T13:45:10Z","healthy":true},"#
                + r#""IPv6":{"lastUpdated":"1970-01-12T13:45:10Z","healthy":true}}}"#
        );
        progress.pending_since.insert(IpFamily::V6, since(61));
        let stuck = json(&progress, false);
        assert!(stuck.contains(r#""healthy":false,"status":{"IPv4":{"#) && !stuck.contains("nodeEligible"), "{stuck}");
    }

    #[test]
    fn the_node_counts_for_load_balancers_only() {
        let status = Status::default();
        status.set_node_eligible(false);
        assert_eq!(probe(&status, &HEALTHZ, true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(probe(&status, &LIVEZ, false).status(), StatusCode::OK);
        let text = status.metrics().text();
        assert!(text.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 1\n"), "{text}");
        assert!(text.contains("kubeproxy_proxy_livez_total{code=\"200\"} 1\n"), "{text}");
    }
}
