//! What the API says, in the shape questions ask for. A clone costs nothing and stays as it is; a change touches only
//! what it's about.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, HashSet, OrdMap, OrdSet};

use crate::objects::{Endpoint, EndpointSlice, Object, ObjectKey, Service};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespaces, Services and their endpoints.
#[derive(Clone, Debug, Default)]
pub struct View {
    namespaces: HashSet<String>,
    services: HashMap<ObjectKey, Arc<ServiceRecord>>,
    slices: HashMap<ObjectKey, Arc<SliceRecord>>,
    /// The slices of each Service, by the Service's key.
    slices_of: HashMap<ObjectKey, OrdSet<String>>,
    /// Which Services an address stands for: as a ClusterIP, and as an endpoint with its label.
    reverse: HashMap<IpAddr, OrdMap<(ObjectKey, Option<String>), u32>>,
    /// Every kind has been listed: what isn't here isn't anywhere.
    pub synced: bool,
    /// Unix seconds of the last change (SOA serial).
    pub serial: u32,
}

/// How a Service is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    ExternalName(String),
}

/// A Service as DNS knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    pub kind: Kind,
    pub ports: Vec<Port>,
}

/// A named or unnamed port, the protocol in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub number: u16,
}

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointRecord {
    pub address: IpAddr,
    /// Its name below the Service: the pod's hostname, or the address with dashes.
    pub label: String,
    pub ports: Vec<Port>,
}

#[derive(Debug)]
struct SliceRecord {
    service: ObjectKey,
    endpoints: Vec<EndpointRecord>,
}

impl View {
    /// Takes in an object as it is now.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert(namespace.metadata.name);
            }
            Object::Service(service) => self.put_service(service),
            Object::EndpointSlice(slice) => self.put_slice(slice),
        }
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn remove_service(&mut self, key: &ObjectKey) {
        if let Some(old) = self.services.remove(key) {
            for address in cluster_ips(&old) {
                self.forget(*address, key, None);
            }
        }
    }

    pub fn remove_slice(&mut self, key: &ObjectKey) {
        let Some(old) = self.slices.remove(key) else { return };
        for endpoint in &old.endpoints {
            self.forget(endpoint.address, &old.service, Some(&endpoint.label));
        }
        if let Some(names) = self.slices_of.get_mut(&old.service) {
            names.remove(&key.name);
            if names.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
    }

    /// The keys there are of a kind: after a new listing, those not listed are to be removed.
    pub fn service_keys(&self) -> Vec<ObjectKey> {
        self.services.keys().cloned().collect()
    }

    pub fn slice_keys(&self) -> Vec<ObjectKey> {
        self.slices.keys().cloned().collect()
    }

    pub fn namespace_names(&self) -> Vec<String> {
        self.namespaces.iter().cloned().collect()
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn service(&self, key: &ObjectKey) -> Option<&ServiceRecord> {
        self.services.get(key).map(|s| &**s)
    }

    /// A Service's ready endpoints, each once although two slices may name it for a moment.
    pub(crate) fn endpoints(&self, key: &ObjectKey) -> Vec<&EndpointRecord> {
        let names = self.slices_of.get(key).into_iter().flatten();
        let slices = names.filter_map(|name| self.slices.get(&ObjectKey::new(&key.namespace, name)));
        let mut all: Vec<&EndpointRecord> = slices.flat_map(|s| &s.endpoints).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The Services an address stands for, with the endpoint's label where it is one's endpoint.
    pub(crate) fn reverse(&self, address: IpAddr) -> Vec<&(ObjectKey, Option<String>)> {
        self.reverse.get(&address).into_iter().flat_map(|names| names.keys()).collect()
    }

    fn put_service(&mut self, service: Service) {
        let key = ObjectKey::new(&service.metadata.namespace, &service.metadata.name);
        self.remove_service(&key);
        let record = ServiceRecord { kind: kind(&service), ports: service_ports(&service) };
        for address in cluster_ips(&record) {
            self.remember(*address, &key, None);
        }
        self.services.insert(key, Arc::new(record));
    }

    fn put_slice(&mut self, slice: EndpointSlice) {
        let key = ObjectKey::new(&slice.metadata.namespace, &slice.metadata.name);
        self.remove_slice(&key);
        let Some(service) = slice.metadata.labels.get(SERVICE_NAME) else { return };
        let service = ObjectKey::new(&key.namespace, service);
        let ports = slice_ports(&slice);
        let endpoints: Vec<EndpointRecord> = slice.endpoints.iter().filter_map(|e| endpoint(e, &ports)).collect();
        for endpoint in &endpoints {
            self.remember(endpoint.address, &service, Some(&endpoint.label));
        }
        self.slices_of.entry(service.clone()).or_default().insert(key.name.clone());
        self.slices.insert(key, Arc::new(SliceRecord { service, endpoints }));
    }

    /// Counted, since two slices may hold one endpoint.
    fn remember(&mut self, address: IpAddr, service: &ObjectKey, label: Option<&str>) {
        let names = self.reverse.entry(address).or_default();
        *names.entry((service.clone(), label.map(str::to_owned))).or_insert(0) += 1;
    }

    fn forget(&mut self, address: IpAddr, service: &ObjectKey, label: Option<&str>) {
        let Some(names) = self.reverse.get_mut(&address) else { return };
        let name = (service.clone(), label.map(str::to_owned));
        if let Some(count) = names.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&name);
            }
        }
        if names.is_empty() {
            self.reverse.remove(&address);
        }
    }
}

fn cluster_ips(service: &ServiceRecord) -> &[IpAddr] {
    match &service.kind {
        Kind::ClusterIp(addresses) => addresses,
        _ => &[],
    }
}

fn kind(service: &Service) -> Kind {
    let spec = &service.spec;
    if spec.kind == "ExternalName" {
        return Kind::ExternalName(spec.external_name.clone());
    }
    let all = if spec.cluster_ips.is_empty() { std::slice::from_ref(&spec.cluster_ip) } else { &spec.cluster_ips[..] };
    let addresses: Vec<IpAddr> = all.iter().filter_map(|ip| ip.parse().ok()).collect();
    if addresses.is_empty() { Kind::Headless } else { Kind::ClusterIp(addresses) }
}

fn protocol(protocol: Option<&String>) -> String {
    protocol.map_or_else(|| "tcp".to_owned(), |p| p.to_ascii_lowercase())
}

fn service_ports(service: &Service) -> Vec<Port> {
    let port = |p: &crate::objects::ServicePort| Port {
        name: p.name.clone(),
        protocol: protocol(p.protocol.as_ref()),
        number: p.port,
    };
    service.spec.ports.iter().map(port).collect()
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let ports = slice.ports.iter().flatten();
    let port = |p: &crate::objects::EndpointPort| {
        let name = p.name.clone().unwrap_or_default();
        Some(Port { name, protocol: protocol(p.protocol.as_ref()), number: p.port? })
    };
    ports.filter_map(port).collect()
}

/// Consumers use an endpoint's first address only (discovery.k8s.io/v1 Endpoint). A nil `ready` means ready.
fn endpoint(endpoint: &Endpoint, ports: &[Port]) -> Option<EndpointRecord> {
    if endpoint.conditions.ready == Some(false) {
        return None;
    }
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let hostname = endpoint.hostname.as_ref().filter(|h| !h.is_empty()).map(|h| h.to_ascii_lowercase());
    let label = hostname.unwrap_or_else(|| dashed(address));
    Some(EndpointRecord { address, label, ports: ports.to_vec() })
}

/// `10-0-0-1`, `2001-db8--1`; an end that would be a dash gets a zero.
fn dashed(address: IpAddr) -> String {
    let mut label = address.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}
