//! The Kubernetes API server over a Store: HTTP in, objects of every kind out, one process, no other daemon.
//!
//! Not responsible for what a kind means (crate `api`), for durability (crate `store`), nor for acting on objects
//! (controllers, agents).

mod bootstrap;
mod discovery;
mod health;
mod http;
mod identity;
mod kinds;
mod logs;
mod metrics;
mod openapi;
pub mod pki;
mod registry;
mod service_allocation;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use ::http::{Request, Response};
use ipnet::IpNet;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use http::body::{Body, BoxError};
pub use identity::Identity;
pub use logs::{AsyncReadWrite, NodeDialer};
pub use tls::{TlsError, server_config};

use discovery::Discovery;
use http::serve::{self, Caller};
use kinds::Kinds;
use metrics::Metrics;
use openapi::OpenApi;
use registry::Registry;
use service_allocation::Allocator;

/// What an API server must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges of ClusterIPs: one, or one per family; the first is the primary one.
    pub service_cidrs: Vec<IpNet>,
    pub node_port_range: RangeInclusive<u16>,
    /// Where Pods reach the server: what Service `default/kubernetes` points to.
    pub advertise: SocketAddr,
    pub cluster_domain: String,
}

/// Why a server can't be made of its parts.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("one service address range per family is needed, one or two in all; got {0:?}")]
    ServiceCidrs(Vec<IpNet>),
    #[error("the service address range {0} is too small")]
    SmallCidr(IpNet),
    #[error("the range of node ports {0:?} is empty")]
    NodePorts(RangeInclusive<u16>),
}

/// An API server; clones are the same one.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) dialer: Arc<dyn NodeDialer>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) metrics: Metrics,
    pub(crate) bootstrapped: AtomicBool,
}

impl ApiServer {
    pub fn new(store: Arc<dyn Store>, config: Config, dialer: Arc<dyn NodeDialer>) -> Result<Self, ConfigError> {
        let families = config.service_cidrs.iter().map(|cidr| cidr.addr().is_ipv4());
        match families.collect::<Vec<_>>()[..] {
            [_] | [true, false] | [false, true] => {}
            _ => return Err(ConfigError::ServiceCidrs(config.service_cidrs)),
        }
        if let Some(small) = config.service_cidrs.iter().find(|cidr| cidr.max_prefix_len() - cidr.prefix_len() < 3) {
            return Err(ConfigError::SmallCidr(*small));
        }
        if config.node_port_range.is_empty() {
            return Err(ConfigError::NodePorts(config.node_port_range));
        }
        let kinds = Kinds::new(api::resources().iter().copied());
        let discovery = Discovery::new(&kinds, &config.advertise.to_string());
        let openapi = OpenApi::new(&kinds);
        let allocator = Allocator::new(&config);
        let registry = Registry { store, kinds, allocator, lines: Arc::default() };
        Ok(ApiServer(Arc::new(Inner {
            config,
            registry,
            dialer,
            discovery,
            openapi,
            metrics: Metrics::default(),
            bootstrapped: AtomicBool::new(false),
        })))
    }

    /// The server as a tower service whose caller is trusted, for clients in the same process.
    pub fn service(&self) -> ApiService {
        self.service_for(Some(Identity::trusted()), CancellationToken::new())
    }

    /// The server for one caller; watches end when `ending` is cancelled.
    pub fn service_for(&self, identity: Option<Identity>, ending: CancellationToken) -> ApiService {
        ApiService { server: self.clone(), caller: Caller { identity, ending } }
    }
}

/// An API server as one caller sees it.
#[derive(Clone)]
pub struct ApiService {
    server: ApiServer,
    caller: Caller,
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, caller) = (self.server.0.clone(), self.caller.clone());
        let request = request.map(http::body::incoming);
        Box::pin(async move { Ok(serve::answer(server, caller, request).await) })
    }
}
