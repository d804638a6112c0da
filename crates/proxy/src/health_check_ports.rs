//! The health-check ports of Services with `externalTrafficPolicy: Local`: a load balancer asks there whether this node has
//! endpoints (KEP-1669: ready ones; those that terminate don't count). One server per port and address. Not responsible for
//! counting.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use service_model::{IpFamily, NodePortAddresses, ServiceName};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::health::{JSON, respond, works};
use crate::status::Status;
use crate::syncer::Shared;
use crate::tally::Checks;

/// How often a port that could not be listened on is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Connections waiting to be accepted; what std asks for.
const BACKLOG: u32 = 128;
/// For balancers that weigh nodes by it.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// A port that cannot be listened on.
#[derive(Debug)]
pub(crate) struct Failure {
    pub service: ServiceName,
    pub at: SocketAddr,
    pub error: Error,
}

/// One family's servers.
pub(crate) struct HealthCheckPorts {
    family: IpFamily,
    shared: Shared,
    status: Status,
    checks: watch::Receiver<Checks>,
    servers: BTreeMap<(SocketAddr, ServiceName), CancellationToken>,
    /// Told of already.
    failed: BTreeSet<(SocketAddr, ServiceName)>,
    tasks: JoinSet<()>,
}

impl HealthCheckPorts {
    pub(crate) fn new(family: IpFamily, shared: Shared, status: Status) -> Option<HealthCheckPorts> {
        let checks = status.checks(family)?;
        let (servers, failed, tasks) = (BTreeMap::new(), BTreeSet::new(), JoinSet::new());
        Some(HealthCheckPorts { family, shared, status, checks, servers, failed, tasks })
    }

    /// Serves until cancelled.
    pub(crate) async fn run(mut self, tell: impl Fn(Failure) + Send, token: CancellationToken) {
        let mut changes = self.shared.changes();
        loop {
            self.settle(&tell, &token).await;
            tokio::select! {
                () = token.cancelled() => break,
                changed = self.checks.changed() => if changed.is_err() { break },
                // Where NodePorts answer may be different now.
                _ = changes.changed(), if !self.checks.borrow().is_empty() => {}
                () = tokio::time::sleep(TRY_AGAIN), if !self.failed.is_empty() => {}
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn settle(&mut self, tell: &(impl Fn(Failure) + Send), token: &CancellationToken) {
        let wanted = self.wanted();
        self.servers.retain(|server, stop| {
            let stays = wanted.contains(server);
            if !stays {
                stop.cancel();
            }
            stays
        });
        self.failed.retain(|server| wanted.contains(server));
        for server in wanted {
            if self.servers.contains_key(&server) {
                continue;
            }
            let (at, service) = &server;
            match listen(*at) {
                Ok(listener) => {
                    let stop = token.child_token();
                    self.serve(listener, service.clone(), stop.clone());
                    self.failed.remove(&server);
                    self.servers.insert(server, stop);
                }
                Err(error) => {
                    if self.failed.insert(server.clone()) {
                        tell(Failure { service: service.clone(), at: *at, error });
                    }
                }
            }
        }
    }

    /// The kernel drops nothing of two that want the same port: the first one by name has it.
    fn wanted(&mut self) -> BTreeSet<(SocketAddr, ServiceName)> {
        let checks = self.checks.borrow_and_update().clone();
        if checks.is_empty() {
            return BTreeSet::new();
        }
        let addresses = self.addresses();
        let of_check = |(service, check): (&ServiceName, &crate::tally::Check)| {
            let port = check.port.number();
            addresses.iter().map(|at| (SocketAddr::new(*at, port), service.clone())).collect::<Vec<_>>()
        };
        checks.iter().flat_map(of_check).collect()
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        match self.shared.node_ports() {
            NodePortAddresses::AllLocal => BTreeSet::from([match self.family {
                IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            }]),
            NodePortAddresses::Only(only) => only
                .into_iter()
                .filter(|address| IpFamily::of(*address) == self.family && !is_link_local(*address))
                .collect(),
        }
    }

    fn serve(&mut self, listener: TcpListener, service: ServiceName, stop: CancellationToken) {
        let (status, checks) = (self.status.clone(), self.checks.clone());
        self.tasks.spawn(runtime::probes::serve(listener, stop, move |_| {
            let endpoints = checks.borrow().get(&service).map_or(0, |check| check.local_ready_endpoints);
            answer(&service, endpoints, works(&status))
        }));
    }
}

/// Without a scope nothing can listen on one.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// IPv6 alone on `::`, since `0.0.0.0` has a server of its own.
fn listen(at: SocketAddr) -> Result<TcpListener, Error> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if at.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn answer(service: &ServiceName, endpoints: usize, proxy_works: bool) -> Response<Full<Bytes>> {
    let code = if endpoints > 0 && proxy_works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let (namespace, name) = (service.namespace(), service.name());
    // Names are DNS labels: nothing in them has to be escaped.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {proxy_works}\n}}"
    );
    let mut response = respond(code, JSON, body);
    response.headers_mut().insert(WEIGHT, HeaderValue::from(endpoints));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_passes_with_endpoints_and_a_proxy_that_works() {
        let service = ServiceName::new("n", "s");
        for (endpoints, works, code) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let response = answer(&service, endpoints, works);
            assert_eq!(response.status().as_u16(), code);
            assert_eq!(response.headers()[WEIGHT], endpoints.to_string());
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        }
    }
}
