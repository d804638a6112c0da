//! Names below `svc`: Services, their endpoints and their ports, and those of Services that several clusters share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Found, Zone, nothing_of_the_type};
use crate::message::RrType;
use crate::name::Name;
use crate::objects::ObjectKey;
use crate::records::{Data, Record};
use crate::view::{EndpointRecord, Kind, Port, Protocol, ServiceRecord, SliceRecord, dashed_address};

/// Above the names of one topology zone's endpoints: `<zone>.pin._zone.<svc>`.
const ZONAL: &str = "_zone";

/// `rest` is what lies below the namespace, the Service's name first.
pub(super) fn find(zone: &Zone<'_>, owner: &Name, namespace: &str, rest: &[&str]) -> Found {
    let Some((name, below)) = rest.split_first() else { return nothing_of_the_type() };
    let key = ObjectKey::new(namespace, name);
    let several_clusters = zone.several_clusters();
    let realm = zone.view.realm(several_clusters);
    let Some(record) = realm.service(&key) else { return Found::Nothing };
    let service = Service { zone, record, slices: realm.slices(&key) };
    if zone.config.ignore_empty_service && matches!(record.kind, Kind::ClusterIp(_)) && service.is_empty() {
        return Found::Nothing;
    }
    match (&record.kind, below) {
        (Kind::ExternalName(target), []) => Found::External(target.clone()),
        (Kind::ExternalName(_), _) => Found::Nothing,
        (_, []) => service.named(owner, None),
        (_, [protocol]) if protocol.starts_with('_') => service.empty_non_terminal(protocol),
        // KEP-1645's specification, section 2.4.4: a cluster by itself has no name.
        (_, [_]) if several_clusters => Found::Nothing,
        (_, [label]) => service.endpoint(owner, label, ""),
        (Kind::Headless, [ZONAL, "pin" | "prefer"]) if service.is_zonal() => nothing_of_the_type(),
        (_, [protocol, port]) if protocol.starts_with('_') => service.port(owner, protocol, port),
        (_, [cluster, label]) if several_clusters => service.endpoint(owner, label, cluster),
        (Kind::Headless, [ZONAL, directive, place @ ..]) if service.is_zonal() => {
            service.zonal(owner, directive, place)
        }
        _ => Found::Nothing,
    }
}

/// The zones' name servers with their addresses: Services that have one of this server's addresses as an endpoint, or
/// else the server by itself.
pub(super) fn name_servers(zone: &Zone<'_>) -> Vec<(Name, Vec<IpAddr>)> {
    let own = &zone.config.own_addresses;
    let mut servers: Vec<(Name, Vec<IpAddr>)> = Vec::new();
    // Services are in the primary zone; CoreDNS names them in whichever zone is asked about (h).
    for slice in own.iter().flat_map(|address| zone.view.slices_with(*address)) {
        let Some(home) = zone.primary() else { continue };
        let Some(service) = zone.view.realm(false).service(&slice.service) else { continue };
        let name = relative_name(&slice.service);
        let named: Vec<(String, Vec<IpAddr>)> = match &service.kind {
            Kind::ClusterIp(addresses) => vec![(name, addresses.clone())],
            Kind::Headless => {
                slice.endpoints.iter().map(|e| (format!("{}.{name}", e.label()), vec![e.address])).collect()
            }
            Kind::ExternalName(_) => Vec::new(),
        };
        for (name, addresses) in named {
            let Some(name) = home.below(&name) else { continue };
            match servers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.extend(addresses.iter().filter(|a| !known.contains(a)).collect::<Vec<_>>()),
                None => servers.push((name, addresses)),
            }
        }
    }
    if servers.is_empty() {
        servers.extend(zone.below("ns.dns").map(|name| (name, own.clone())));
    }
    servers
}

/// Every name that a Service has in a zone, with the types it has records of: what a transfer asks for.
pub(crate) fn names_of(zone: &Zone<'_>, service: &ServiceRecord) -> Vec<(Name, &'static [RrType])> {
    const ADDRESSES: &[RrType] = &[RrType::A, RrType::AAAA];
    let own = relative_name(&service.key);
    let service =
        Service { zone, record: service, slices: zone.view.realm(zone.several_clusters()).slices(&service.key) };
    let types: &[RrType] = match service.record.kind {
        Kind::ExternalName(_) => return zone.below(&own).map(|n| (n, &[RrType::CNAME][..])).into_iter().collect(),
        _ => &[RrType::A, RrType::AAAA, RrType::SRV],
    };
    let mut below: BTreeSet<String> = service.endpoints(|_, _| true).iter().map(Hit::label).collect();
    let endpoints: Vec<String> = std::mem::take(&mut below).into_iter().collect();
    let named = |ports: &[Port]| {
        ports
            .iter()
            .filter(|p| !p.name.is_empty())
            .map(|p| format!("_{}.{}", p.name, p.protocol.label()))
            .collect::<Vec<_>>()
    };
    match service.record.kind {
        Kind::ClusterIp(_) => below.extend(named(&service.record.ports)),
        _ => below.extend(service.slices.iter().flat_map(|slice| named(&slice.ports))),
    }
    let name = |label: &String| zone.below(&format!("{label}.{own}"));
    let apex = zone.below(&own).map(|name| (name, types));
    let endpoints = endpoints.iter().filter_map(name).map(|name| (name, ADDRESSES));
    let ports = below.iter().filter_map(name).map(|name| (name, &[RrType::SRV][..]));
    apex.into_iter().chain(endpoints).chain(ports).collect()
}

fn relative_name(key: &ObjectKey) -> String {
    format!("{}.{}.svc", key.name, key.namespace)
}

struct Service<'a> {
    zone: &'a Zone<'a>,
    record: &'a ServiceRecord,
    slices: &'a [Arc<SliceRecord>],
}

/// An endpoint that a name stands for.
struct Hit<'a> {
    slice: &'a SliceRecord,
    endpoint: &'a EndpointRecord,
}

impl Hit<'_> {
    /// Its name below the Service, with the cluster's where that is part of it.
    fn label(&self) -> String {
        match self.slice.cluster.as_str() {
            "" => self.endpoint.label().into_owned(),
            cluster => format!("{}.{cluster}", self.endpoint.label()),
        }
    }
}

/// A port by its name.
#[derive(Clone, Copy)]
struct NamedPort<'a> {
    name: &'a str,
    protocol: Protocol,
}

impl NamedPort<'_> {
    fn is(self, port: &Port) -> bool {
        port.is(self.name, self.protocol)
    }
}

impl<'a> Service<'a> {
    /// The Service itself or one port of it: its addresses, or its endpoints'; as SRV, every port that is meant.
    fn named(&self, owner: &Name, port: Option<NamedPort<'_>>) -> Found {
        let meant = |ports: &[Port]| port.is_none_or(|wanted| ports.iter().any(|p| wanted.is(p)));
        match &self.record.kind {
            Kind::ClusterIp(_) if !meant(&self.record.ports) => Found::Nothing,
            Kind::ClusterIp(addresses) if self.zone.query.rr_type != RrType::SRV => {
                self.zone.addresses(owner, addresses)
            }
            Kind::ClusterIp(addresses) => {
                let ports = self.record.ports.iter().filter(|p| port.is_none_or(|wanted| wanted.is(p)));
                let own = relative_name(&self.record.key);
                let entries = ports.flat_map(|p| addresses.iter().map(|a| (p.number, own.clone(), *a)));
                self.srv(owner, entries.collect())
            }
            _ => self.answer(owner, &self.endpoints(|slice, _| meant(&slice.ports)), port),
        }
    }

    /// An endpoint by its label: every address that shares it.
    fn endpoint(&self, owner: &Name, label: &str, cluster: &str) -> Found {
        let spelled = dashed_address(label);
        let here = |slice: &SliceRecord, endpoint: &EndpointRecord| {
            slice.cluster.eq_ignore_ascii_case(cluster) && endpoint.is_called(label, spelled)
        };
        self.answer(owner, &self.endpoints(here), None)
    }

    /// (b) `_tcp.<svc>` has children when a port of the protocol has a name, so it exists (RFC 8020).
    fn empty_non_terminal(&self, label: &str) -> Found {
        let named = |ports: &[Port]| ports.iter().any(|p| !p.name.is_empty() && p.protocol.label() == label);
        let exists = match self.record.kind {
            Kind::ClusterIp(_) => named(&self.record.ports),
            _ => self.slices.iter().any(|slice| !slice.endpoints.is_empty() && named(&slice.ports)),
        };
        let zonal = label == ZONAL && self.is_zonal() && !self.is_empty();
        if exists || zonal { nothing_of_the_type() } else { Found::Nothing }
    }

    /// `_<port>._<protocol>.<svc>`; (c) without the underscores it's no such name.
    fn port(&self, owner: &Name, protocol: &str, port: &str) -> Found {
        let protocol = protocol.strip_prefix('_').and_then(|protocol| Protocol::parse(Some(protocol)));
        match (protocol, port.strip_prefix('_')) {
            (Some(protocol), Some(name)) => self.named(owner, Some(NamedPort { name, protocol })),
            _ => Found::Nothing,
        }
    }

    fn is_zonal(&self) -> bool {
        self.zone.config.zonal && !self.zone.several_clusters() && self.record.kind == Kind::Headless
    }

    /// The endpoints of one topology zone, whose name may have several labels. `pin` means them or none; `prefer` means
    /// all where there are none.
    fn zonal(&self, owner: &Name, directive: &str, place: &[&str]) -> Found {
        let place = place.iter().rev().copied().collect::<Vec<_>>().join(".");
        let there = self.endpoints(|_, endpoint| endpoint.zone.as_deref() == Some(&place));
        let meant = match directive {
            "prefer" if there.is_empty() => self.endpoints(|_, _| true),
            "pin" | "prefer" => there,
            _ => return Found::Nothing,
        };
        if meant.is_empty() { nothing_of_the_type() } else { self.answer(owner, &meant, None) }
    }

    fn endpoints(&self, wanted: impl Fn(&SliceRecord, &EndpointRecord) -> bool) -> Vec<Hit<'a>> {
        let all = self.slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |e| (&**slice, e)));
        all.filter(|(slice, endpoint)| wanted(slice, endpoint))
            .map(|(slice, endpoint)| Hit { slice, endpoint })
            .collect()
    }

    fn is_empty(&self) -> bool {
        self.slices.iter().all(|slice| slice.endpoints.is_empty())
    }

    /// What endpoints answer; without any, the name isn't there.
    fn answer(&self, owner: &Name, hits: &[Hit<'_>], port: Option<NamedPort<'_>>) -> Found {
        if hits.is_empty() {
            return Found::Nothing;
        }
        if self.zone.query.rr_type != RrType::SRV {
            let mut addresses: Vec<IpAddr> = hits.iter().map(|hit| hit.endpoint.address).collect();
            addresses.sort_unstable();
            addresses.dedup();
            return self.zone.addresses(owner, &addresses);
        }
        let service = relative_name(&self.record.key);
        let mut entries = Vec::with_capacity(hits.len());
        for Hit { slice, endpoint } in hits {
            let label = Hit { slice, endpoint }.label();
            let name = format!("{label}.{service}");
            let ports = slice.ports.iter().filter(|p| port.is_none_or(|wanted| wanted.is(p)));
            let before = entries.len();
            entries.extend(ports.map(|p| (p.number, name.clone(), endpoint.address)));
            // An endpoint without any port has its share of the weight all the same.
            if entries.len() == before && slice.entries_per_endpoint() == 1 {
                entries.push((None, name, endpoint.address));
            }
        }
        self.srv(owner, entries)
    }

    /// Ports and their targets, and the targets' addresses of both families beside them. The weights are CoreDNS's: equal
    /// shares of 100 by port and address.
    fn srv(&self, owner: &Name, mut entries: Vec<(Option<u16>, String, IpAddr)>) -> Found {
        let weight = u16::try_from(100 / entries.len().max(1)).unwrap_or(1).max(1);
        if !entries.is_empty() {
            let turn = self.zone.rotation % entries.len();
            entries.rotate_left(turn);
        }
        let (mut records, mut additional) = (Vec::new(), Vec::new());
        let (mut ports, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (port, name, address) in &entries {
            let (Some(port), Some(target)) = (*port, self.zone.below(name)) else { continue };
            if addresses.insert((name, *address)) {
                additional.extend(self.zone.both_families(&target, &[*address]));
            }
            if ports.insert((name, port)) {
                let data = Data::Srv { priority: 0, weight, port, target };
                records.push(Record { owner: owner.clone(), ttl: self.zone.config.ttl, data });
            }
        }
        Found::Records(records, additional)
    }
}
