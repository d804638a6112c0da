//! What the API says, in the shape questions ask for. A clone costs nothing and stays as it is; a change touches only
//! what it's about.

mod records;

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, HashSet, OrdSet};

use crate::config::Config;
use crate::objects::{EndpointSlice, Object, ObjectKey, Pod};
pub(crate) use records::{Details, EndpointRecord, Kind, Port, Protocol, ServiceRecord, SliceRecord, dashed_address};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const IMPORTED_SERVICE: &str = "multicluster.kubernetes.io/service-name";
const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";

/// Namespaces, Services, their endpoints and, where they're asked for, pods and Services of other clusters.
#[derive(Clone, Debug, Default)]
pub struct View {
    namespaces: HashSet<String>,
    cluster: Realm,
    clusterset: Realm,
    /// Which Services and slices hold an address.
    holders: OrdSet<Holder>,
    pods: HashMap<ObjectKey, Arc<[IpAddr]>>,
    pod_addresses: OrdSet<(IpAddr, Option<Arc<ObjectKey>>)>,
    details: Details,
    /// Every kind has been listed: what isn't here isn't anywhere.
    pub synced: bool,
    /// Unix seconds of the last change (SOA serial).
    pub serial: u32,
}

/// The Services of one cluster, or those that several share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Realm {
    services: HashMap<ObjectKey, Arc<ServiceRecord>>,
    slices: HashMap<ObjectKey, Arc<SliceRecord>>,
    /// The slices of each Service in the order of their names, by the Service's key.
    slices_of: HashMap<ObjectKey, Arc<[Arc<SliceRecord>]>>,
}

/// An address and who has it; `Nobody` comes before all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder(IpAddr, Holds);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Nobody,
    Service(Arc<ObjectKey>),
    Slice(Arc<ObjectKey>),
}

/// A name that an address stands for: a Service's, or an endpoint's below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReverseName<'a> {
    pub(crate) service: &'a ObjectKey,
    pub(crate) endpoint: Option<&'a EndpointRecord>,
}

impl View {
    /// One that keeps what the configuration asks for.
    pub fn new(config: &Config) -> Self {
        View { details: Details { pod_names: config.endpoint_pod_names, zones: config.zonal }, ..View::default() }
    }

    /// Takes in an object as it is now.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert(namespace.metadata.name);
            }
            Object::Service(service) => {
                let record = ServiceRecord::of(&service);
                self.remove_service(&record.key);
                for address in record.cluster_ips() {
                    self.holders.insert(Holder(*address, Holds::Service(record.key.clone())));
                }
                self.cluster.put_service(record);
            }
            Object::EndpointSlice(slice) => self.put_slice(&slice),
            Object::Pod(pod) => self.put_pod(&pod),
            Object::ServiceImport(import) => self.clusterset.put_service(ServiceRecord::of_import(&import)),
        }
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn remove_service(&mut self, key: &ObjectKey) {
        let Some(old) = self.cluster.services.remove(key) else { return };
        for address in old.cluster_ips() {
            self.holders.remove(&Holder(*address, Holds::Service(old.key.clone())));
        }
    }

    pub fn remove_service_import(&mut self, key: &ObjectKey) {
        self.clusterset.services.remove(key);
    }

    pub fn remove_slice(&mut self, key: &ObjectKey) {
        self.clusterset.remove_slice(key);
        let Some(old) = self.cluster.remove_slice(key) else { return };
        for endpoint in &old.endpoints {
            self.holders.remove(&Holder(endpoint.address, Holds::Slice(old.key.clone())));
        }
    }

    pub fn remove_pod(&mut self, key: &ObjectKey) {
        let Some(addresses) = self.pods.remove(key) else { return };
        let pod = Arc::new(key.clone());
        for address in addresses.iter() {
            self.pod_addresses.remove(&(*address, Some(pod.clone())));
        }
    }

    /// The keys there are of a kind: after a new listing, those not listed are to be removed.
    pub fn service_keys(&self) -> Vec<ObjectKey> {
        self.cluster.services.keys().cloned().collect()
    }

    pub fn service_import_keys(&self) -> Vec<ObjectKey> {
        self.clusterset.services.keys().cloned().collect()
    }

    pub fn slice_keys(&self) -> Vec<ObjectKey> {
        let imported = self.clusterset.slices.keys().filter(|key| !self.cluster.slices.contains_key(*key));
        self.cluster.slices.keys().chain(imported).cloned().collect()
    }

    pub fn pod_keys(&self) -> Vec<ObjectKey> {
        self.pods.keys().cloned().collect()
    }

    pub fn namespace_names(&self) -> Vec<String> {
        self.namespaces.iter().cloned().collect()
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn realm(&self, several_clusters: bool) -> &Realm {
        if several_clusters { &self.clusterset } else { &self.cluster }
    }

    /// What an address stands for: the Service whose ClusterIP it is, else an endpoint of each Service that has it.
    pub(crate) fn reverse(&self, address: IpAddr) -> Vec<ReverseName<'_>> {
        let holders = self.holders.range(Holder(address, Holds::Nobody)..).take_while(|holder| holder.0 == address);
        let mut names: Vec<ReverseName<'_>> = Vec::new();
        for Holder(_, holds) in holders {
            match holds {
                Holds::Nobody => {}
                // Services come first.
                Holds::Service(key) => return vec![ReverseName { service: key, endpoint: None }],
                Holds::Slice(key) => {
                    let Some(slice) = self.cluster.slices.get(&**key) else { continue };
                    let here = slice.endpoints.iter().filter(|e| e.address == address);
                    for name in here.map(|e| ReverseName { service: &slice.service, endpoint: Some(e) }) {
                        let same = |n: &ReverseName<'_>| {
                            n.service == name.service && n.endpoint.map(|e| &e.name) == name.endpoint.map(|e| &e.name)
                        };
                        if !names.iter().any(same) {
                            names.push(name);
                        }
                    }
                }
            }
        }
        names
    }

    /// The slices that have an address, with the address as an endpoint's.
    pub(crate) fn slices_with(&self, address: IpAddr) -> impl Iterator<Item = &SliceRecord> {
        let holders = self.holders.range(Holder(address, Holds::Nobody)..).take_while(move |h| h.0 == address);
        holders.filter_map(|Holder(_, holds)| match holds {
            Holds::Slice(key) => self.cluster.slices.get(&**key).map(|slice| &**slice),
            _ => None,
        })
    }

    /// Whether any address between two is held by somebody.
    pub(crate) fn any_between(&self, low: IpAddr, high: IpAddr) -> bool {
        self.holders.range(Holder(low, Holds::Nobody)..).next().is_some_and(|holder| holder.0 <= high)
    }

    /// Every address that is held, once.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut last = None;
        self.holders.iter().map(|holder| holder.0).filter(move |address| last.replace(*address) != Some(*address))
    }

    /// Whether a pod of the namespace has the address.
    pub(crate) fn is_pod(&self, namespace: &str, address: IpAddr) -> bool {
        let here = self.pod_addresses.range((address, None)..).take_while(|(a, _)| *a == address);
        here.filter_map(|(_, pod)| pod.as_ref()).any(|pod| pod.namespace == namespace)
    }

    fn put_slice(&mut self, slice: &EndpointSlice) {
        self.remove_slice(&ObjectKey::new(&slice.metadata.namespace, &slice.metadata.name));
        let label = |name: &str| slice.metadata.labels.get(name).map(String::as_str);
        if let Some(service) = label(SERVICE_NAME) {
            let record = SliceRecord::of(slice, service, "", self.details);
            for endpoint in &record.endpoints {
                self.holders.insert(Holder(endpoint.address, Holds::Slice(record.key.clone())));
            }
            self.cluster.put_slice(record);
        }
        if let Some(service) = label(IMPORTED_SERVICE) {
            let cluster = label(SOURCE_CLUSTER).unwrap_or_default();
            self.clusterset.put_slice(SliceRecord::of(slice, service, cluster, self.details));
        }
    }

    /// Pods that have ended or are on their way out have no names.
    fn put_pod(&mut self, pod: &Pod) {
        let key = ObjectKey::new(&pod.metadata.namespace, &pod.metadata.name);
        self.remove_pod(&key);
        let over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed" | "Unknown");
        if over || pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let all = std::iter::once(&pod.status.pod_ip).chain(pod.status.pod_ips.iter().map(|p| &p.ip));
        let mut addresses: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let shared = Arc::new(key.clone());
        self.pod_addresses.extend(addresses.iter().map(|address| (*address, Some(shared.clone()))));
        self.pods.insert(key, addresses.into());
    }
}

impl Realm {
    pub(crate) fn service(&self, key: &ObjectKey) -> Option<&ServiceRecord> {
        self.services.get(key).map(|service| &**service)
    }

    /// A Service's slices.
    pub(crate) fn slices(&self, service: &ObjectKey) -> &[Arc<SliceRecord>] {
        self.slices_of.get(service).map_or(&[], |slices| slices)
    }

    /// Every Service, by namespace and name.
    pub(crate) fn sorted(&self) -> Vec<Arc<ServiceRecord>> {
        let mut all: Vec<_> = self.services.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }

    fn put_service(&mut self, record: ServiceRecord) {
        self.services.insert((*record.key).clone(), Arc::new(record));
    }

    fn put_slice(&mut self, record: SliceRecord) {
        let record = Arc::new(record);
        let others = self.slices(&record.service).iter().cloned();
        let mut all: Vec<_> = others.chain([record.clone()]).collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        self.slices_of.insert(record.service.clone(), all.into());
        self.slices.insert((*record.key).clone(), record);
    }

    fn remove_slice(&mut self, key: &ObjectKey) -> Option<Arc<SliceRecord>> {
        let old = self.slices.remove(key)?;
        let left: Vec<_> = self.slices(&old.service).iter().filter(|slice| slice.key != old.key).cloned().collect();
        if left.is_empty() {
            self.slices_of.remove(&old.service);
        } else {
            self.slices_of.insert(old.service.clone(), left.into());
        }
        Some(old)
    }
}
