//! Endpoint lists by what they are for: each has a listener of its own, so that whoever comes by a listener is known to be
//! one for whom the list is meant. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use service_model::{Endpoint, Frontend, Protocol, ServicePort, ServicePortName, Verdict};

use crate::relay::Aim;

/// For whom a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Traffic to cluster IPs.
    Internal,
    /// Traffic to other frontends.
    External,
    /// Traffic of this node and its pods to other frontends, where it differs.
    Here,
}

/// One endpoint list of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId {
    pub port: ServicePortName,
    pub way: Way,
}

/// What a list holds, as a view of its Service port.
#[derive(Clone, Debug)]
pub struct List {
    pub port: Arc<ServicePort>,
    pub way: Way,
}

/// Where a process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

impl Way {
    /// Which list strangers are given at a frontend.
    pub fn of_others(frontend: &Frontend) -> Way {
        if frontend.is_internal() { Way::Internal } else { Way::External }
    }

    /// Which list this node and its pods are given at a frontend.
    pub fn of_here(frontend: &Frontend, port: &ServicePort) -> Way {
        match Way::of_others(frontend) {
            Way::External if port.local_traffic.is_some() => Way::Here,
            way => way,
        }
    }
}

impl List {
    fn verdict(&self) -> &Verdict {
        match self.way {
            Way::Internal => &self.port.internal,
            Way::External => &self.port.external,
            Way::Here => self.port.local_traffic.as_ref().unwrap_or(&self.port.external),
        }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        self.verdict().endpoints()
    }

    pub fn aim(&self) -> Aim {
        Aim {
            endpoints: self.endpoints().iter().map(Endpoint::socket).collect(),
            may_stay: self.may_stay().clone(),
            sticky: self.port.affinity.map(|affinity| Duration::from_secs(u64::from(affinity.timeout_seconds))),
        }
    }

    fn may_stay(&self) -> &BTreeSet<SocketAddr> {
        &self.port.flows_may_stay_with
    }
}

/// Equal when they lead to the same.
impl PartialEq for List {
    fn eq(&self, other: &List) -> bool {
        self.way == other.way
            && (Arc::ptr_eq(&self.port, &other.port)
                || (self.endpoints() == other.endpoints()
                    && self.may_stay() == other.may_stay()
                    && self.port.affinity == other.port.affinity))
    }
}

impl Eq for List {}

impl Place {
    /// As an element of the set of listeners.
    pub fn key(&self) -> nft::Key {
        let value = nft::Value::concat().addr(self.address.ip()).proto(self.protocol.number());
        value.port(self.address.port()).value().into()
    }
}

impl fmt::Display for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::Internal => "inside",
            Way::External => "outside",
            Way::Here => "outside, from here",
        };
        write!(f, "{} ({way})", self.port)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)
    }
}
