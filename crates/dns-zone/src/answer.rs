//! The answer to a question: what of a zone's shape a name means, and which records it has.
//!
//! Where the specification and CoreDNS differ, or CoreDNS errs, the choice is named at its place by the letter it has in
//! `docs/adr/0028-dns-answers-are-corednss-with-corrections.md`.

mod external;
mod reverse;
mod services;

use std::net::IpAddr;

use crate::config::{Config, Pods, is_reverse};
use crate::message::{Query, Rcode, Response, RrType};
use crate::name::Name;
use crate::records::{Data, Record};
use crate::view::{View, dashed_address};

pub(crate) use reverse::reverse_name;
pub(crate) use services::names_of;

/// What to do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Respond(Response),
    /// The records so far lead to a name outside: resolve it and append what comes (RFC 1034 section 3.6.2).
    Chase {
        answers: Vec<Record>,
        target: Name,
    },
    /// Not ours, or left to others: ask upstream.
    Forward,
    /// All of a zone is asked for (RFC 5936, RFC 1995), by somebody who may or may not have it.
    Transfer {
        zone: Name,
    },
}

/// TTL of `dns-version` by the specification, section 2.2, in seconds.
const VERSION_TTL: u32 = 28_800;
const SCHEMA_VERSION: &str = "1.1.0";
/// KEP-1645's specification, section 2.2.
const CLUSTERSET_SCHEMA_VERSION: &str = "1.0.0";

/// Answers from the view. `rotation` turns the order of equal records, so that each client starts at another one.
pub fn answer(query: &Query, view: &View, config: &Config, rotation: usize) -> Answer {
    if query.edns.is_some_and(|e| e.version != 0) {
        return Answer::Respond(Response::code(Rcode::BadVers));
    }
    if !query.class_in() {
        return Answer::Respond(Response::code(Rcode::Refused));
    }
    let zone = config.zone_of(&query.name);
    if matches!(query.rr_type, RrType::AXFR | RrType::IXFR) {
        return match zone.filter(|zone| **zone == query.name) {
            Some(zone) => Answer::Transfer { zone: zone.clone() },
            None => Answer::Respond(Response::code(Rcode::Refused)),
        };
    }
    match zone {
        Some(zone) => Zone { query, view, config, rotation, name: zone }.answer(),
        None => Answer::Forward,
    }
}

/// What a name of the zone turned out to be.
pub(crate) enum Found {
    /// It exists; these are its records of the type asked for, maybe none.
    Records(Vec<Record>, Vec<Record>),
    Nothing,
    External(String),
}

/// A question to one of our zones.
#[derive(Clone, Copy)]
pub(crate) struct Zone<'a> {
    pub(crate) query: &'a Query,
    pub(crate) view: &'a View,
    pub(crate) config: &'a Config,
    pub(crate) rotation: usize,
    pub(crate) name: &'a Name,
}

impl<'a> Zone<'a> {
    fn answer(&self) -> Answer {
        match self.find(&self.query.name) {
            Found::Records(answers, additional) => Answer::Respond(self.response(answers, additional)),
            Found::Nothing if self.falls_through() => Answer::Forward,
            Found::Nothing => Answer::Respond(self.name_error()),
            Found::External(target) => external::answer(self, &target),
        }
    }

    /// What a name in this zone is.
    pub(crate) fn find(&self, owner: &Name) -> Found {
        let Some(labels) = owner.below(self.name) else { return Found::Nothing };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(owner),
            // (b) A name with children, or with records of another type, exists (RFC 8020, RFC 2308).
            ["dns"] => nothing_of_the_type(),
            ["dns", "ns"] => {
                let servers = services::name_servers(self);
                let addresses: Vec<IpAddr> = servers.into_iter().flat_map(|(_, addresses)| addresses).collect();
                self.addresses(owner, &addresses)
            }
            _ if is_reverse(self.name) => reverse::find(self, owner),
            ["dns-version"] => self.version(owner),
            ["svc"] | ["pod"] => nothing_of_the_type(),
            ["svc" | "pod", namespace, ..] if !self.shows(namespace) => Found::Nothing,
            ["svc", _] => nothing_of_the_type(),
            ["svc", namespace, ref rest @ ..] => services::find(self, owner, namespace, rest),
            ["pod", namespace, ref rest @ ..] => self.pod(owner, namespace, rest),
            _ => Found::Nothing,
        }
    }

    /// Whether the zone is one that several clusters share.
    fn several_clusters(&self) -> bool {
        self.config.multicluster.contains(self.name)
    }

    fn shows(&self, namespace: &str) -> bool {
        self.config.shows(namespace) && self.view.has_namespace(namespace)
    }

    fn apex(&self, owner: &Name) -> Found {
        let ttl = self.config.ttl;
        match self.query.rr_type {
            RrType::SOA => Found::Records(vec![self.soa()], Vec::new()),
            RrType::NS => {
                let servers = services::name_servers(self);
                let records =
                    servers.iter().map(|(name, _)| Record { owner: owner.clone(), ttl, data: Data::Ns(name.clone()) });
                let glue = servers.iter().flat_map(|(name, addresses)| self.both_families(name, addresses));
                Found::Records(records.collect(), glue.collect())
            }
            _ => nothing_of_the_type(),
        }
    }

    fn version(&self, owner: &Name) -> Found {
        if self.query.rr_type != RrType::TXT {
            return nothing_of_the_type();
        }
        let version = if self.several_clusters() { CLUSTERSET_SCHEMA_VERSION } else { SCHEMA_VERSION };
        let data = Data::Txt(version.to_owned());
        Found::Records(vec![Record { owner: owner.clone(), ttl: VERSION_TTL, data }], Vec::new())
    }

    /// `rest` is what lies below the namespace: the address of a pod, spelled with dashes.
    fn pod(&self, owner: &Name, namespace: &str, rest: &[&str]) -> Found {
        if self.config.pods == Pods::Disabled {
            return Found::Nothing;
        }
        let [label] = rest else { return if rest.is_empty() { nothing_of_the_type() } else { Found::Nothing } };
        let Some(address) = dashed_address(label) else { return Found::Nothing };
        // (d) Every address of a pod is one, of either family.
        if self.config.pods == Pods::Verified && !self.view.is_pod(namespace, address) {
            return Found::Nothing;
        }
        self.addresses(owner, &[address])
    }

    /// The addresses of the family asked for, the order turned.
    pub(crate) fn addresses(&self, owner: &Name, addresses: &[IpAddr]) -> Found {
        let wanted = |address: &&IpAddr| match self.query.rr_type {
            RrType::A => address.is_ipv4(),
            RrType::AAAA => address.is_ipv6(),
            _ => false,
        };
        let mut records: Vec<Record> =
            addresses.iter().filter(wanted).map(|address| self.address(owner, *address)).collect();
        if !records.is_empty() {
            let turn = self.rotation % records.len();
            records.rotate_left(turn);
        }
        Found::Records(records, Vec::new())
    }

    pub(crate) fn both_families(&self, owner: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        addresses.iter().map(|address| self.address(owner, *address)).collect()
    }

    fn address(&self, owner: &Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(v4) => Data::A(v4),
            IpAddr::V6(v6) => Data::Aaaa(v6),
        };
        Record { owner: owner.clone(), ttl: self.config.ttl, data }
    }

    /// NODATA and positive answers.
    fn response(&self, answers: Vec<Record>, additional: Vec<Record>) -> Response {
        let authority = if answers.is_empty() { vec![self.soa()] } else { Vec::new() };
        Response { answers, authority, additional, ..self.code(Rcode::NoError) }
    }

    /// NXDOMAIN; before everything has been listed, nobody can know that.
    fn name_error(&self) -> Response {
        if !self.view.synced {
            return Response::code(Rcode::ServFail);
        }
        Response { authority: vec![self.soa()], ..self.code(Rcode::NxDomain) }
    }

    fn code(&self, rcode: Rcode) -> Response {
        Response { authoritative: true, zone_labels: self.name.depth(), ..Response::code(rcode) }
    }

    /// Whether a name that isn't there is left to others. Before everything has been listed nothing is, except addresses
    /// that are known to be somebody else's.
    fn falls_through(&self) -> bool {
        if !self.config.falls_through(&self.query.name) {
            return false;
        }
        let own = &self.config.reverse;
        match reverse::address(&self.query.name) {
            Some(address) if !own.is_empty() => !own.iter().any(|network| network.contains(&address)),
            _ => self.view.synced,
        }
    }

    /// RFC 2308: a negative answer lives as long as the smaller of the SOA's TTL and its minimum.
    pub(crate) fn soa(&self) -> Record {
        const NEGATIVE_TTL_MAX: u32 = 300;
        let data = Data::Soa {
            mname: self.below("ns.dns").unwrap_or_default(),
            rname: self.below("hostmaster").unwrap_or_default(),
            serial: self.view.serial,
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: self.config.ttl,
        };
        Record { owner: self.name.clone(), ttl: self.config.ttl.min(NEGATIVE_TTL_MAX), data }
    }

    /// The alias that an ExternalName Service is, or (e) the address.
    pub(crate) fn alias(&self, owner: &Name, external_name: &str) -> Vec<Record> {
        if let Ok(address) = external_name.parse() {
            return self.both_families(owner, &[address]);
        }
        let data = Name::parse(external_name).map(Data::Cname);
        data.into_iter().map(|data| Record { owner: owner.clone(), ttl: self.config.ttl, data }).collect()
    }

    /// A name below the zone, from presentation labels. They come from API objects, whose names fit.
    pub(crate) fn below(&self, relative: &str) -> Option<Name> {
        Name::parse(relative)?.under(self.name)
    }

    /// The same question about the zone that Services are in, for names that reverse zones speak of.
    fn primary(&self) -> Option<Zone<'a>> {
        Some(Zone { name: self.config.primary()?, ..*self })
    }
}

/// The name exists and has no such records.
fn nothing_of_the_type() -> Found {
    Found::Records(Vec::new(), Vec::new())
}
