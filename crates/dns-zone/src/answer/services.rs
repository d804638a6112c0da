//! Names below `svc`: Services, their endpoints and their ports.

use std::net::IpAddr;

use super::{Found, Zone};
use crate::message::RrType;
use crate::name::Name;
use crate::objects::ObjectKey;
use crate::records::{Data, Record};
use crate::view::{EndpointRecord, Kind, Port, ServiceRecord};

/// `rest` is what lies below the namespace, the Service's name first.
pub(super) fn find(zone: &Zone<'_>, owner: &Name, namespace: &str, rest: &[&str]) -> Found {
    let Some((service_name, below)) = rest.split_first() else { return Found::Nothing };
    let key = ObjectKey::new(namespace, service_name);
    let Some(service) = zone.view.service(&key) else { return Found::Nothing };
    let found = Service { zone, key: &key, service, endpoints: zone.view.endpoints(&key) };
    match (&service.kind, below) {
        (Kind::ExternalName(target), []) => Found::External(target.clone()),
        (Kind::ExternalName(_), _) => Found::Nothing,
        (Kind::Headless, []) if found.endpoints.is_empty() => Found::Nothing,
        (_, []) => found.whole(owner),
        (_, [protocol]) if protocol.starts_with('_') => found.protocol(protocol),
        (_, [label]) => found.endpoint(owner, label),
        (_, [protocol, port]) => found.port(owner, protocol, port),
        _ => Found::Nothing,
    }
}

/// The zone's name servers with their addresses: Services that have one of this server's addresses as an endpoint, or
/// else the server by itself.
pub(super) fn name_servers(zone: &Zone<'_>) -> Vec<(Name, Vec<IpAddr>)> {
    let own = &zone.config.own_addresses;
    let mut servers = Vec::new();
    for (key, _) in own.iter().flat_map(|address| zone.view.reverse(*address)).filter(|(_, label)| label.is_some()) {
        let Some(Kind::ClusterIp(addresses)) = zone.view.service(key).map(|s| s.kind.clone()) else { continue };
        if let Some(name) = zone.name(&format!("{}.{}.svc", key.name, key.namespace)) {
            servers.push((name, addresses));
        }
    }
    if servers.is_empty() {
        servers.extend(zone.name("ns.dns").map(|name| (name, own.clone())));
    }
    servers
}

struct Service<'a> {
    zone: &'a Zone<'a>,
    key: &'a ObjectKey,
    service: &'a ServiceRecord,
    endpoints: Vec<&'a EndpointRecord>,
}

impl Service<'_> {
    /// The Service's own name: its addresses, or its endpoints'; as SRV, every port it has.
    fn whole(&self, owner: &Name) -> Found {
        if self.zone.query.rr_type == RrType::SRV {
            return self.srv(owner, |_| true);
        }
        self.zone.addresses(owner, &self.addresses())
    }

    fn addresses(&self) -> Vec<IpAddr> {
        match &self.service.kind {
            Kind::ClusterIp(addresses) => addresses.clone(),
            _ => {
                let mut addresses: Vec<IpAddr> = self.endpoints.iter().map(|e| e.address).collect();
                addresses.dedup();
                addresses
            }
        }
    }

    /// An endpoint by its label: every address that shares it.
    fn endpoint(&self, owner: &Name, label: &str) -> Found {
        let named = self.endpoints.iter().filter(|e| e.label == label);
        let addresses: Vec<IpAddr> = named.map(|e| e.address).collect();
        if addresses.is_empty() { Found::Nothing } else { self.zone.addresses(owner, &addresses) }
    }

    /// `_tcp.<svc>` has children when a port of the protocol has a name, so it exists (RFC 8020); CoreDNS says NXDOMAIN.
    fn protocol(&self, protocol: &str) -> Found {
        let exists =
            self.ports().iter().any(|p| !p.name.is_empty() && Some(p.protocol.as_str()) == protocol.strip_prefix('_'));
        if exists { Found::Records(Vec::new(), Vec::new()) } else { Found::Nothing }
    }

    /// `_<port>._<protocol>.<svc>`; without the underscores it's no such name (CoreDNS takes it for one).
    fn port(&self, owner: &Name, protocol: &str, port: &str) -> Found {
        let (Some(protocol), Some(port)) = (protocol.strip_prefix('_'), port.strip_prefix('_')) else {
            return Found::Nothing;
        };
        let matches = |p: &Port| p.protocol == protocol && p.name.eq_ignore_ascii_case(port) && !p.name.is_empty();
        if !self.ports().iter().any(matches) {
            return Found::Nothing;
        }
        match self.zone.query.rr_type {
            RrType::SRV | RrType::ANY => self.srv(owner, matches),
            _ => self.zone.addresses(owner, &self.addresses()),
        }
    }

    fn ports(&self) -> Vec<Port> {
        match self.service.kind {
            Kind::ClusterIp(_) => self.service.ports.clone(),
            _ => self.endpoints.iter().flat_map(|e| e.ports.clone()).collect(),
        }
    }

    /// Port and target of everything that matches, and the targets' addresses of both families beside them.
    fn srv(&self, owner: &Name, matches: impl Fn(&Port) -> bool) -> Found {
        let own = format!("{}.{}.svc", self.key.name, self.key.namespace);
        let mut targets: Vec<(u16, Name, Vec<IpAddr>)> = Vec::new();
        match &self.service.kind {
            Kind::ClusterIp(addresses) => {
                let Some(target) = self.zone.name(&own) else { return Found::Nothing };
                let ports = self.service.ports.iter().filter(|p| matches(p));
                targets.extend(ports.map(|p| (p.number, target.clone(), addresses.clone())));
            }
            _ => {
                for endpoint in &self.endpoints {
                    let Some(target) = self.zone.name(&format!("{}.{own}", endpoint.label)) else { continue };
                    let ports = endpoint.ports.iter().filter(|p| matches(p));
                    targets.extend(ports.map(|p| (p.number, target.clone(), vec![endpoint.address])));
                }
            }
        }
        if !targets.is_empty() {
            let turn = self.zone.rotation % targets.len();
            targets.rotate_left(turn);
        }
        // Equal shares of 100, as CoreDNS weighs them; its halving for a second address family is left out.
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let mut additional: Vec<Record> = Vec::new();
        for (_, target, addresses) in &targets {
            for record in self.zone.address_records(target, addresses, true) {
                if !additional.contains(&record) {
                    additional.push(record);
                }
            }
        }
        let record = |(port, target, _)| Record {
            owner: owner.clone(),
            ttl: self.zone.config.ttl,
            data: Data::Srv { priority: 0, weight, port, target },
        };
        Found::Records(targets.into_iter().map(record).collect(), additional)
    }
}
