//! From a message to its response: the zone first, then other servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dns_zone::relay::{chased, relayed};
use dns_zone::{Answer, Config as Zones, Name, Query, QueryError, Rcode, Record, Response, View, answer};
use ipnet::IpNet;

use crate::Config;
use crate::forward::Forwarder;
use crate::metrics::{Metrics, Transport};
use crate::transfer::Outgoing;
use crate::watch::Published;

/// Everything a question needs.
pub struct Resolver {
    zones: Zones,
    transfer_to: Vec<IpNet>,
    view: Published,
    forwarder: Forwarder,
    metrics: Arc<Metrics>,
    rotation: AtomicUsize,
}

/// What a message leads to.
pub enum Reaction {
    /// Send this.
    Respond(Vec<u8>),
    /// Other servers have to be asked.
    Wait(Box<Waiting>),
    /// Send all of a zone.
    Transfer(Box<Outgoing>),
    /// Say nothing.
    Ignore,
}

/// A question that needs other servers.
pub struct Waiting {
    query: Query,
    limit: usize,
    chase: Option<(Vec<Record>, Name)>,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub transport: Transport,
    pub client: IpAddr,
    /// In tenths of a second, how long its connection may stay idle.
    pub keepalive: Option<u16>,
}

const TCP_MAX: usize = u16::MAX as usize;

impl Resolver {
    pub fn new(zones: Zones, config: &Config, view: Published, metrics: Arc<Metrics>) -> Self {
        let forwarder = Forwarder::new(&config.upstreams, metrics.clone());
        let transfer_to = config.transfer_to.clone();
        Resolver { zones, transfer_to, view, forwarder, metrics, rotation: AtomicUsize::new(0) }
    }

    /// Answers at once what can be; never waits.
    pub fn react(&self, message: &[u8], asked: Asked) -> Reaction {
        self.metrics.request(asked.transport);
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(QueryError::Ignore) => return Reaction::Ignore,
            Err(QueryError::Reply { id, rcode, opcode }) => return self.send(Response::header_only(id, opcode, rcode)),
        };
        let limit = if asked.transport == Transport::Udp { query.udp_limit() } else { TCP_MAX };
        let view = self.view.load();
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let respond = |response: Response| {
            let response = Response { keepalive: asked.keepalive, ..response };
            self.send(response.write(&query, limit))
        };
        match answer(&query, &view, &self.zones, rotation) {
            Answer::Respond(response) => respond(response),
            Answer::Transfer { zone } => match self.transfer(&query, asked, &zone, &view) {
                Some(outgoing) => Reaction::Transfer(Box::new(outgoing)),
                None => respond(Response::code(Rcode::Refused)),
            },
            Answer::Chase { answers, target } => {
                Reaction::Wait(Box::new(Waiting { query, limit, chase: Some((answers, target)) }))
            }
            Answer::Forward => match self.forwarder.cached(&query) {
                Some(reply) => self.send(relayed(&query, reply, limit)),
                None => Reaction::Wait(Box::new(Waiting { query, limit, chase: None })),
            },
        }
    }

    /// A zone for somebody who may have it: by TCP alone, as a datagram holds none.
    fn transfer(&self, query: &Query, asked: Asked, zone: &Name, view: &View) -> Option<Outgoing> {
        let allowed = self.transfer_to.iter().any(|network| network.contains(&asked.client.to_canonical()));
        let whole = allowed && view.synced && asked.transport == Transport::Tcp;
        whole.then(|| Outgoing::new(query.clone(), view, &self.zones, zone))
    }

    /// Asks other servers, and answers in any case.
    pub async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting { query, limit, chase } = waiting;
        let response = match chase {
            None => match self.forwarder.ask(&query).await {
                Some(reply) => relayed(&query, reply.to_vec(), limit),
                None => Response::code(Rcode::ServFail).write(&query, limit),
            },
            Some((answers, target)) => {
                let asked = Query::new(target, query.rr_type, query.edns);
                let reply = match self.forwarder.cached(&asked) {
                    Some(reply) => Some(Bytes::from(reply)),
                    None => self.forwarder.ask(&asked).await,
                };
                chased(answers, reply.as_deref()).write(&query, limit)
            }
        };
        self.metrics.response(&response);
        response
    }

    fn send(&self, response: Vec<u8>) -> Reaction {
        self.metrics.response(&response);
        Reaction::Respond(response)
    }
}
