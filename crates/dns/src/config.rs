//! How the server is run.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The configuration of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// UDP and TCP. Explicit addresses: an answer must leave from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// What the cluster's zones hold.
    pub records: dns_zone::Config,
    /// Who may have a whole zone; nobody, unless it's said.
    pub transfer_to: Vec<IpNet>,
    /// Servers that resolve every other name, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// `/ready` and `/health`.
    pub ready: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
}

impl Config {
    /// The zones, as this server answers for them: where it listens, unless told otherwise, is where name servers are.
    pub(crate) fn zones(&self) -> Result<dns_zone::Config, Error> {
        self.records.check()?;
        let mut records = self.records.clone();
        if records.own_addresses.is_empty() {
            let addresses = self.listen.iter().map(SocketAddr::ip).filter(|a: &IpAddr| !a.is_unspecified());
            records.own_addresses = addresses.collect();
        }
        Ok(records)
    }
}
