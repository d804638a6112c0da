//! How the server is run.

use std::net::{IpAddr, SocketAddr};

use dns_zone::Name;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The configuration of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// UDP and TCP. Explicit addresses: an answer must leave from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub zone: String,
    /// Addresses whose reverse names are ours even when nothing has them.
    pub reverse: Vec<IpNet>,
    /// Seconds that clients may keep an answer of the zone.
    pub ttl: u32,
    /// Servers that resolve every other name, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// `/ready` and `/health`.
    pub ready: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
}

impl Config {
    pub(crate) fn zone(&self) -> Result<dns_zone::Config, Error> {
        let zone = Name::parse(&self.zone).ok_or_else(|| Error::Zone(self.zone.clone()))?;
        let own_addresses: Vec<IpAddr> =
            self.listen.iter().map(SocketAddr::ip).filter(|a| !a.is_unspecified()).collect();
        Ok(dns_zone::Config { zone, reverse: self.reverse.clone(), ttl: self.ttl, own_addresses })
    }
}
