//! The cluster DNS server: watches the API, answers the cluster's zone, asks other servers for the rest.
//!
//! Not responsible for what the zone's answers are (`dns-zone` decides) or for how clients reach it (a Service does).

mod cache;
mod config;
mod forward;
mod metrics;
mod observe;
mod resolver;
mod tcp;
mod transfer;
mod udp;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use dns_zone::{Config as Records, Fallthrough, Name, Pods};

use crate::metrics::Metrics;
use crate::resolver::Resolver;

/// The failed step of starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the zones can't be served: {0}")]
    Zones(#[from] dns_zone::ConfigError),
    #[error("cannot listen on {address} ({transport}): {source}")]
    Listen { address: SocketAddr, transport: &'static str, source: std::io::Error },
}

/// Serves until cancelled. Listens before the first object is listed; until all are, what would be denied is SERVFAIL.
pub async fn run(client: kube::Client, config: Config, stop: CancellationToken) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::default());
    let zones = config.zones()?;
    let view = watch::Published::default();
    let resolver = Arc::new(Resolver::new(zones.clone(), &config, view.clone(), metrics.clone()));
    let mut tasks = JoinSet::new();
    for address in &config.listen {
        for socket in udp::bind(*address)? {
            tasks.spawn(udp::serve(socket, resolver.clone(), stop.clone()));
        }
        tasks.spawn(tcp::serve(tcp::bind(*address).await?, resolver.clone(), stop.clone()));
    }
    if let Some(address) = config.ready {
        tasks.spawn(observe::serve(observe::bind(address).await?, view.clone(), metrics.clone(), stop.clone()));
    }
    if let Some(address) = config.metrics {
        tasks.spawn(observe::serve(observe::bind(address).await?, view.clone(), metrics.clone(), stop.clone()));
    }
    tasks.spawn(watch::follow(client, zones, view, stop.clone()));
    while tasks.join_next().await.is_some() {}
    Ok(())
}
