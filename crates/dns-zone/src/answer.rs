//! The answer to a question: what of the zone's shape a name means, and which records it has.
//!
//! Where CoreDNS and the specification differ, or CoreDNS is known to err, the choice is named at its place.

mod external;
mod services;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::{Query, Rcode, Response, RrType};
use crate::name::Name;
use crate::records::{Data, Record};
use crate::view::View;

/// How the zone is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cluster.local`.
    pub zone: Name,
    /// Addresses whose reverse names are ours even when nothing has them; others' are asked upstream.
    pub reverse: Vec<IpNet>,
    /// Seconds.
    pub ttl: u32,
    /// Where this server answers: Services with such an endpoint are the zone's name servers.
    pub own_addresses: Vec<IpAddr>,
}

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Respond(Response),
    /// The records so far lead to a name outside: resolve it and append what comes (RFC 1034 section 3.6.2).
    Chase {
        answers: Vec<Record>,
        target: Name,
    },
    /// Not ours: ask upstream.
    Forward,
}

/// TTL of `dns-version` by the specification, section 2.2, in seconds.
const VERSION_TTL: u32 = 28_800;
const SCHEMA_VERSION: &str = "1.1.0";

/// Answers from the view. `rotation` turns the order of equal records, so that each client starts at another one.
pub fn answer(query: &Query, view: &View, config: &Config, rotation: usize) -> Answer {
    if query.edns.is_some_and(|e| e.version != 0) {
        return Answer::Respond(Response::code(Rcode::BadVers));
    }
    let transfer = matches!(query.rr_type, RrType::AXFR | RrType::IXFR);
    if !query.class_in() || transfer {
        return Answer::Respond(Response::code(Rcode::Refused));
    }
    if let Some(labels) = query.name.below(&config.zone) {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        return Zone { query, view, config, rotation }.answer(&labels);
    }
    match reverse_address(&query.name) {
        Some(address) => reverse(query, view, config, address),
        None => Answer::Forward,
    }
}

/// What a name of the zone turned out to be.
enum Found {
    /// It exists; these are its records of the type asked for, maybe none.
    Records(Vec<Record>, Vec<Record>),
    Nothing,
    External(String),
}

struct Zone<'a> {
    query: &'a Query,
    view: &'a View,
    config: &'a Config,
    rotation: usize,
}

impl Zone<'_> {
    fn answer(&self, labels: &[&str]) -> Answer {
        match self.find(&self.query.name, labels) {
            Found::Records(answers, additional) => Answer::Respond(self.response(answers, additional)),
            Found::Nothing => Answer::Respond(self.name_error()),
            Found::External(target) => external::answer(self, &target),
        }
    }

    /// `labels` lie below the zone, those nearest to it first.
    fn find(&self, owner: &Name, labels: &[&str]) -> Found {
        let empty = || Found::Records(Vec::new(), Vec::new());
        match labels {
            [] => self.apex(owner),
            ["dns-version"] => self.of_type(RrType::TXT, || (owner, VERSION_TTL, Data::Txt(SCHEMA_VERSION.to_owned()))),
            ["svc"] | ["pod"] => empty(),
            // RFC 8020: a name with children exists; CoreDNS says NXDOMAIN for this one.
            ["dns"] => empty(),
            ["dns", "ns"] => self.addresses(owner, &self.config.own_addresses),
            ["svc" | "pod", namespace] if self.view.has_namespace(namespace) => empty(),
            ["svc", namespace, rest @ ..] => services::find(self, owner, namespace, rest),
            ["pod", namespace, label] => self.pod(owner, namespace, label),
            _ => Found::Nothing,
        }
    }

    fn apex(&self, owner: &Name) -> Found {
        let ttl = self.config.ttl;
        match self.query.rr_type {
            RrType::SOA => Found::Records(vec![self.soa()], Vec::new()),
            RrType::NS => {
                let servers = services::name_servers(self);
                let records =
                    servers.iter().map(|(name, _)| Record { owner: owner.clone(), ttl, data: Data::Ns(name.clone()) });
                let glue = servers.iter().flat_map(|(name, addresses)| self.address_records(name, addresses, true));
                Found::Records(records.collect(), glue.collect())
            }
            _ => Found::Records(Vec::new(), Vec::new()),
        }
    }

    /// The name of a pod's address, spelled with dashes: echoed when the namespace exists (`pods insecure`).
    fn pod(&self, owner: &Name, namespace: &str, label: &str) -> Found {
        match dashed_address(label) {
            Some(address) if self.view.has_namespace(namespace) => self.addresses(owner, &[address]),
            _ => Found::Nothing,
        }
    }

    fn of_type<'r>(&self, rr_type: RrType, record: impl FnOnce() -> (&'r Name, u32, Data)) -> Found {
        let wanted = self.query.rr_type == rr_type || self.query.rr_type == RrType::ANY;
        let records = wanted.then(record).map(|(owner, ttl, data)| Record { owner: owner.clone(), ttl, data });
        Found::Records(records.into_iter().collect(), Vec::new())
    }

    /// The addresses of the family asked for, each of them once, the order turned.
    fn addresses(&self, owner: &Name, addresses: &[IpAddr]) -> Found {
        let mut records = self.address_records(owner, addresses, false);
        if !records.is_empty() {
            let turn = self.rotation % records.len();
            records.rotate_left(turn);
        }
        Found::Records(records, Vec::new())
    }

    fn address_records(&self, owner: &Name, addresses: &[IpAddr], both_families: bool) -> Vec<Record> {
        let any = both_families || self.query.rr_type == RrType::ANY;
        let data = |address: &IpAddr| match address {
            IpAddr::V4(v4) if any || self.query.rr_type == RrType::A => Some(Data::A(*v4)),
            IpAddr::V6(v6) if any || self.query.rr_type == RrType::AAAA => Some(Data::Aaaa(*v6)),
            _ => None,
        };
        let record = |data| Record { owner: owner.clone(), ttl: self.config.ttl, data };
        addresses.iter().filter_map(data).map(record).collect()
    }

    /// NODATA and positive answers.
    fn response(&self, answers: Vec<Record>, additional: Vec<Record>) -> Response {
        let authority = if answers.is_empty() { vec![self.soa()] } else { Vec::new() };
        Response { rcode: Rcode::NoError, authoritative: true, answers, authority, additional }
    }

    /// NXDOMAIN; before everything has been listed, nobody can know that.
    fn name_error(&self) -> Response {
        if !self.view.synced {
            return Response::code(Rcode::ServFail);
        }
        let authority = vec![self.soa()];
        Response { rcode: Rcode::NxDomain, authoritative: true, answers: Vec::new(), authority, additional: Vec::new() }
    }

    fn soa(&self) -> Record {
        soa(&self.config.zone, self.config, self.view.serial)
    }

    /// A name below the zone, from presentation labels. They come from API objects, whose names fit.
    fn name(&self, relative: &str) -> Option<Name> {
        Name::parse(relative)?.under(&self.config.zone)
    }
}

/// RFC 2308: a negative answer lives as long as the smaller of the SOA's TTL and its minimum.
fn soa(zone: &Name, config: &Config, serial: u32) -> Record {
    const NEGATIVE_TTL_MAX: u32 = 300;
    let below = |label: &str| Name::parse(label).and_then(|l| l.under(&config.zone)).unwrap_or_default();
    let data = Data::Soa {
        mname: below("ns.dns"),
        rname: below("hostmaster"),
        serial,
        refresh: 7200,
        retry: 1800,
        expire: 86_400,
        minimum: config.ttl,
    };
    Record { owner: zone.clone(), ttl: config.ttl.min(NEGATIVE_TTL_MAX), data }
}

fn reverse(query: &Query, view: &View, config: &Config, address: IpAddr) -> Answer {
    let named = view.reverse(address);
    let ours = config.reverse.iter().any(|net| net.contains(&address));
    if named.is_empty() && !ours {
        return Answer::Forward;
    }
    let target = |(key, label): &(crate::ObjectKey, Option<String>)| {
        let service = format!("{}.{}.svc", key.name, key.namespace);
        let relative = label.as_ref().map_or(service.clone(), |l| format!("{l}.{service}"));
        Name::parse(&relative)?.under(&config.zone)
    };
    let wanted = matches!(query.rr_type, RrType::PTR | RrType::ANY);
    let names = named.iter().filter_map(|n| target(n)).filter(|_| wanted);
    let answers: Vec<Record> =
        names.map(|name| Record { owner: query.name.clone(), ttl: config.ttl, data: Data::Ptr(name) }).collect();
    let rcode = match (named.is_empty(), view.synced) {
        (false, _) => Rcode::NoError,
        (true, true) => Rcode::NxDomain,
        (true, false) => return Answer::Respond(Response::code(Rcode::ServFail)),
    };
    let zone = Name::parse(if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" }).unwrap_or_default();
    let authority = if answers.is_empty() { vec![soa(&zone, config, view.serial)] } else { Vec::new() };
    Answer::Respond(Response { rcode, authoritative: true, answers, authority, additional: Vec::new() })
}

/// The address a full reverse name spells (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let (v4, v6) = (Name::parse("in-addr.arpa")?, Name::parse("ip6.arpa")?);
    if let Some(labels) = name.below(&v4).filter(|l| l.len() == 4) {
        return labels.join(".").parse().ok();
    }
    let labels = name.below(&v6).filter(|l| l.len() == 32 && l.iter().all(|n| n.len() == 1))?;
    let groups: Vec<String> = labels.chunks(4).map(|group| group.concat()).collect();
    groups.join(":").parse().ok()
}

/// `10-0-0-1` or `2001-db8--1`.
fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.matches('-').count() == 3 && !label.contains("--");
    label.replace('-', if v4 { "." } else { ":" }).parse().ok()
}
