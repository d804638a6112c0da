//! Services and slices as they're kept: what questions need of them, read once.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::objects::{Endpoint, EndpointPort, EndpointSlice, ObjectKey, Service, ServiceImport, ServicePort};

/// How a Service is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    ExternalName(String),
}

/// A Service, or one of several clusters, as DNS knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRecord {
    pub(crate) key: Arc<ObjectKey>,
    pub(crate) kind: Kind,
    pub(crate) ports: Vec<Port>,
}

/// The protocols that ports have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A named or unnamed port. Endpoints may have one without a number: it's any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: Option<u16>,
}

/// The ready endpoints of a slice.
#[derive(Debug)]
pub(crate) struct SliceRecord {
    pub(crate) key: Arc<ObjectKey>,
    pub(crate) service: ObjectKey,
    /// The cluster they're in, where that is part of their names; else empty.
    pub(crate) cluster: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<EndpointRecord>,
}

/// An address of a ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointRecord {
    pub(crate) address: IpAddr,
    /// Its name below the Service where it isn't the address with dashes.
    pub(crate) name: Option<Box<str>>,
    /// Its topology zone, if such names are asked for.
    pub(crate) zone: Option<Box<str>>,
}

/// What is read of endpoints beside their addresses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Details {
    pub(crate) pod_names: bool,
    pub(crate) zones: bool,
}

/// A DNS label's most octets.
const LABEL_MAX: usize = 63;

impl ServiceRecord {
    pub(crate) fn of(service: &Service) -> Self {
        let spec = &service.spec;
        let key = Arc::new(ObjectKey::new(&service.metadata.namespace, &service.metadata.name));
        let all =
            if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips[..] };
        let addresses: Vec<IpAddr> = all.iter().filter_map(|ip| ip.parse().ok()).collect();
        let kind = match (spec.kind.as_str(), addresses.is_empty()) {
            ("ExternalName", _) => Kind::ExternalName(spec.external_name.clone()),
            (_, true) => Kind::Headless,
            (_, false) => Kind::ClusterIp(addresses),
        };
        ServiceRecord { key, kind, ports: service_ports(&spec.ports) }
    }

    pub(crate) fn of_import(import: &ServiceImport) -> Self {
        let key = Arc::new(ObjectKey::new(&import.metadata.namespace, &import.metadata.name));
        let kind = match import.spec.kind.as_str() {
            "Headless" => Kind::Headless,
            _ => Kind::ClusterIp(import.spec.ips.iter().filter_map(|ip| ip.parse().ok()).collect()),
        };
        ServiceRecord { key, kind, ports: service_ports(&import.spec.ports) }
    }

    pub(crate) fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            Kind::ClusterIp(addresses) => addresses,
            _ => &[],
        }
    }
}

impl Protocol {
    /// As the API and labels spell it; nothing said means TCP.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        let all = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
        let text = text.unwrap_or("tcp");
        all.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, protocol)| protocol)
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
            Protocol::Sctp => "_sctp",
        }
    }
}

impl Port {
    pub(crate) fn is(&self, name: &str, protocol: Protocol) -> bool {
        self.protocol == protocol && !self.name.is_empty() && self.name.eq_ignore_ascii_case(name)
    }
}

impl SliceRecord {
    pub(crate) fn of(slice: &EndpointSlice, service: &str, cluster: &str, details: Details) -> Self {
        let (namespace, name) = (&slice.metadata.namespace, &slice.metadata.name);
        SliceRecord {
            key: Arc::new(ObjectKey::new(namespace, name)),
            service: ObjectKey::new(namespace, service),
            cluster: cluster.to_owned(),
            ports: slice.ports.iter().flatten().filter_map(slice_port).collect(),
            endpoints: slice.endpoints.iter().flat_map(|e| endpoint(e, details)).collect(),
        }
    }

    /// What a bare name stands for: every port, and an endpoint without any all the same.
    pub(crate) fn entries_per_endpoint(&self) -> usize {
        self.ports.len().max(1)
    }
}

impl EndpointRecord {
    /// Its name below the Service.
    pub(crate) fn label(&self) -> Cow<'_, str> {
        self.name.as_deref().map_or_else(|| dashed(self.address).into(), Cow::Borrowed)
    }

    /// Whether that is its name; `spelled` is the address that the label spells, if it does.
    pub(crate) fn is_called(&self, label: &str, spelled: Option<IpAddr>) -> bool {
        match &self.name {
            Some(name) => **name == *label,
            None => spelled == Some(self.address) && dashed(self.address) == label,
        }
    }
}

fn service_ports(ports: &[ServicePort]) -> Vec<Port> {
    let port = |p: &ServicePort| {
        let protocol = Protocol::parse(p.protocol.as_deref())?;
        Some(Port { name: p.name.clone(), protocol, number: Some(p.port) })
    };
    ports.iter().filter_map(port).collect()
}

fn slice_port(port: &EndpointPort) -> Option<Port> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    Some(Port { name: port.name.clone().unwrap_or_default(), protocol, number: port.port })
}

/// All addresses of a ready endpoint, as CoreDNS has it: to the API only the first has a meaning, and its own
/// controller writes no second. A nil `ready` means ready.
fn endpoint(endpoint: &Endpoint, details: Details) -> impl Iterator<Item = EndpointRecord> {
    let ready = endpoint.conditions.ready != Some(false);
    let hostname = endpoint.hostname.as_deref().filter(|h| !h.is_empty());
    let pod = endpoint.target_ref.as_ref().map(|t| t.name.as_str()).filter(|n| !n.is_empty() && n.len() <= LABEL_MAX);
    let name = hostname.or(pod.filter(|_| details.pod_names)).map(str::to_ascii_lowercase);
    let zone = endpoint.zone.as_deref().filter(|_| details.zones).map(str::to_ascii_lowercase);
    let addresses = endpoint.addresses.iter().filter(move |_| ready).filter_map(|a| a.parse().ok());
    addresses.map(move |address| EndpointRecord {
        address,
        name: name.as_deref().map(Box::from),
        zone: zone.as_deref().map(Box::from),
    })
}

/// `10-0-0-1`, `2001-db8--1`; an end that would be a dash gets a zero.
fn dashed(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}

/// The address that a label spells: `10-0-0-1` or `2001-db8--1`.
pub(crate) fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.matches('-').count() == 3 && !label.contains("--");
    label.replace('-', if v4 { "." } else { ":" }).parse().ok()
}
