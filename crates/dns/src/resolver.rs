//! From a message to its response: the zone first, then other servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dns_zone::relay::{chased, relayed};
use dns_zone::{Answer, Config as Zone, Name, Query, QueryError, Rcode, Record, Response, answer};

use crate::Config;
use crate::forward::Forwarder;
use crate::metrics::{Metrics, Transport};
use crate::watch::Published;

/// Everything a question needs.
pub struct Resolver {
    zone: Zone,
    view: Published,
    forwarder: Forwarder,
    metrics: Arc<Metrics>,
    rotation: AtomicUsize,
    zone_labels: usize,
}

/// What a message leads to.
pub enum Reaction {
    /// Send this.
    Respond(Vec<u8>),
    /// Other servers have to be asked.
    Wait(Box<Waiting>),
    /// Say nothing.
    Ignore,
}

/// A question that needs other servers.
pub struct Waiting {
    query: Query,
    limit: usize,
    chase: Option<(Vec<Record>, Name)>,
}

const TCP_MAX: usize = u16::MAX as usize;

impl Resolver {
    pub fn new(zone: Zone, config: &Config, view: Published, metrics: Arc<Metrics>) -> Self {
        let forwarder = Forwarder::new(&config.upstreams, metrics.clone());
        let zone_labels = zone.zone.depth();
        Resolver { zone, view, forwarder, metrics, rotation: AtomicUsize::new(0), zone_labels }
    }

    /// Answers at once what can be; never waits.
    pub fn react(&self, message: &[u8], transport: Transport) -> Reaction {
        self.metrics.request(transport);
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(QueryError::Ignore) => return Reaction::Ignore,
            Err(QueryError::Reply { id, rcode, opcode }) => return self.send(Response::header_only(id, opcode, rcode)),
        };
        let limit = if transport == Transport::Udp { query.udp_limit() } else { TCP_MAX };
        let view = self.view.load();
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        match answer(&query, &view, &self.zone, rotation) {
            Answer::Respond(response) => self.send(response.write(&query, limit, self.zone_labels)),
            Answer::Chase { answers, target } => {
                Reaction::Wait(Box::new(Waiting { query, limit, chase: Some((answers, target)) }))
            }
            Answer::Forward => match self.forwarder.cached(&query) {
                Some(reply) => self.send(relayed(&query, reply, limit)),
                None => Reaction::Wait(Box::new(Waiting { query, limit, chase: None })),
            },
        }
    }

    /// Asks other servers, and answers in any case.
    pub async fn finish(&self, waiting: Waiting) -> Vec<u8> {
        let Waiting { query, limit, chase } = waiting;
        let response = match chase {
            None => match self.forwarder.ask(&query).await {
                Some(reply) => relayed(&query, reply.to_vec(), limit),
                None => Response::code(Rcode::ServFail).write(&query, limit, 0),
            },
            Some((answers, target)) => {
                let asked = Query::new(target, query.rr_type, query.edns);
                let reply = match self.forwarder.cached(&asked) {
                    Some(reply) => Some(Bytes::from(reply)),
                    None => self.forwarder.ask(&asked).await,
                };
                chased(answers, reply.as_deref()).write(&query, limit, self.zone_labels)
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
