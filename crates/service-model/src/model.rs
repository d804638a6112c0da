//! The state the watches build: Services, slices, ServiceCIDRs, with a log of what changed. Resolving a table again
//! costs what changed since, not what there is. Not responsible for reading the API.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;

use crate::names::{IpFamily, Revision, ServiceName, ServicePortName};
use crate::node::NodeView;
use crate::objects::{EndpointSlice, SERVICE_NAME_LABEL, Service, ServiceCidr};
use crate::resolve::{Resolved, resolve_service};
use crate::table::{Changes, ForwardingTable};

/// How many changes are remembered one by one; a table older than that is resolved whole.
const CHANGE_LOG: usize = 65_536;

/// Something a watch said about one kind of object.
#[derive(Clone, Debug)]
pub enum Change<T> {
    Upsert(T),
    Delete(ObjectName),
    /// A complete list: what is not in it is gone.
    Relist(Vec<T>),
}

#[derive(Clone, Debug)]
pub enum Event {
    Service(Change<Service>),
    EndpointSlice(Change<EndpointSlice>),
    ServiceCidr(Change<ServiceCidr>),
}

/// Namespace and name of any object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default)]
pub struct ServiceModel {
    view: ServiceView,
    log: VecDeque<(Revision, ServiceName)>,
    /// Everything up to here has left the log.
    forgotten: Revision,
    cidrs_changed: Revision,
    listed_services: bool,
    listed_slices: bool,
    nodes: Nodes,
}

/// The names of nodes that endpoints are on. Many endpoints share few names.
#[derive(Clone, Debug, Default)]
struct Nodes {
    names: BTreeSet<Arc<str>>,
    /// How many there were when those without an endpoint were last forgotten.
    kept: usize,
}

/// The objects as they are at one revision. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ServiceView {
    pub revision: Revision,
    services: BTreeMap<ServiceName, Arc<Service>>,
    /// A Service's slices, in the order of their names.
    slices: BTreeMap<ServiceName, Vec<Arc<EndpointSlice>>>,
    /// Which Service a slice belonged to when last seen: its label may change.
    owners: BTreeMap<ObjectName, ServiceName>,
    cidrs: BTreeMap<String, Vec<IpNet>>,
}

impl ServiceModel {
    pub fn new() -> ServiceModel {
        ServiceModel::default()
    }

    /// Takes in an event. Returns the revision after it, which is the one before if nothing is different now.
    pub fn apply(&mut self, event: Event) -> Revision {
        match event {
            Event::Service(change) => self.apply_service(change),
            Event::EndpointSlice(change) => self.apply_slice(change),
            Event::ServiceCidr(change) => self.apply_cidr(change),
        }
        self.view.revision
    }

    pub fn revision(&self) -> Revision {
        self.view.revision
    }

    /// Whether Services and EndpointSlices have each been listed once. Before that, a table would take Services away that
    /// only have not been seen yet.
    pub fn is_complete(&self) -> bool {
        self.listed_services && self.listed_slices
    }

    pub fn snapshot(&self) -> ServiceView {
        self.view.clone()
    }

    pub fn view(&self) -> &ServiceView {
        &self.view
    }

    /// A whole table, from nothing.
    pub fn resolve(&self, node: &NodeView, family: IpFamily) -> ForwardingTable {
        self.view.resolve(node, family)
    }

    /// Brings a table made for the same node up to date, looking only at Services that changed since.
    pub fn update(&self, table: &mut ForwardingTable, node: &NodeView) {
        if table.revision < self.forgotten {
            let since = table.ports.clone();
            *table = self.resolve(node, table.family);
            // Ports that came out the same keep their identity.
            let ports = Arc::make_mut(&mut table.ports);
            for (name, port) in ports.iter_mut() {
                if let Some(known) = since.get(name).filter(|known| *known == port) {
                    *port = known.clone();
                }
            }
            return;
        }
        let from = table.revision;
        let recent = self.log.iter().rev().take_while(|(revision, _)| *revision > from);
        let dirty: BTreeSet<&ServiceName> = recent.map(|(_, name)| name).collect();
        let mut changed = BTreeSet::new();
        for name in dirty {
            changed.extend(self.view.resolve_one(name, node, table));
        }
        if self.cidrs_changed > from {
            table.service_cidrs = self.view.service_cidrs(table.family);
        }
        table.revision = self.view.revision;
        table.changes = Changes { since: Some(from), ports: changed };
    }

    fn apply_service(&mut self, change: Change<Service>) {
        match change {
            Change::Upsert(service) => self.put_service(service),
            Change::Delete(name) => self.remove_service(&ServiceName::new(name.namespace, name.name)),
            Change::Relist(services) => {
                let listed: BTreeSet<ServiceName> = services.iter().map(name_of).collect();
                let gone: Vec<ServiceName> =
                    self.view.services.keys().filter(|name| !listed.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_service(name));
                services.into_iter().for_each(|service| self.put_service(service));
                self.listed_services = true;
            }
        }
    }

    fn put_service(&mut self, service: Service) {
        let name = self.view.known(name_of(&service));
        if self.view.services.get(&name).is_some_and(|known| **known == service) {
            return;
        }
        self.view.services.insert(name.clone(), Arc::new(service));
        self.mark(name);
    }

    fn remove_service(&mut self, name: &ServiceName) {
        if self.view.services.remove(name).is_some() {
            self.mark(name.clone());
        }
    }

    fn apply_slice(&mut self, change: Change<EndpointSlice>) {
        match change {
            Change::Upsert(slice) => self.put_slice(slice),
            Change::Delete(name) => self.remove_slice(&name),
            Change::Relist(slices) => {
                let listed: BTreeSet<ObjectName> = slices.iter().map(object_name).collect();
                let gone: Vec<ObjectName> =
                    self.view.owners.keys().filter(|name| !listed.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_slice(name));
                slices.into_iter().for_each(|slice| self.put_slice(slice));
                self.listed_slices = true;
            }
        }
    }

    fn put_slice(&mut self, mut slice: EndpointSlice) {
        let object = object_name(&slice);
        let owner = slice.metadata.labels.get(SERVICE_NAME_LABEL).filter(|service| !service.is_empty());
        let Some(owner) = owner.map(|service| ServiceName::new(&object.namespace, service)) else {
            return self.remove_slice(&object);
        };
        let owner = self.view.known(owner);
        // Nobody asks for it: Events are about Services.
        slice.metadata.uid = String::new();
        slice.endpoints.iter_mut().filter_map(|e| e.node_name.as_mut()).for_each(|name| self.nodes.share(name));
        if self.view.owners.get(&object).is_some_and(|before| *before != owner) {
            self.remove_slice(&object);
        }
        let of_owner = self.view.slices.entry(owner.clone()).or_insert_with(|| Vec::with_capacity(1));
        match position(of_owner, &object.name) {
            Ok(at) if *of_owner[at] == slice => return,
            Ok(at) => of_owner[at] = Arc::new(slice),
            Err(at) => of_owner.insert(at, Arc::new(slice)),
        }
        self.view.owners.insert(object, owner.clone());
        self.mark(owner);
    }

    fn remove_slice(&mut self, object: &ObjectName) {
        let Some(owner) = self.view.owners.remove(object) else { return };
        if let Some(slices) = self.view.slices.get_mut(&owner) {
            if let Ok(at) = position(slices, &object.name) {
                slices.remove(at);
            }
            if slices.is_empty() {
                self.view.slices.remove(&owner);
            }
        }
        self.mark(owner);
    }

    fn apply_cidr(&mut self, change: Change<ServiceCidr>) {
        let before = self.view.cidrs.clone();
        let parse = |object: &ServiceCidr| object.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
        match change {
            Change::Upsert(object) => {
                self.view.cidrs.insert(object.metadata.name.clone(), parse(&object));
            }
            Change::Delete(object) => {
                self.view.cidrs.remove(&object.name);
            }
            Change::Relist(objects) => {
                self.view.cidrs = objects.iter().map(|object| (object.metadata.name.clone(), parse(object))).collect();
            }
        }
        if self.view.cidrs != before {
            self.view.revision.0 += 1;
            self.cidrs_changed = self.view.revision;
        }
    }

    fn mark(&mut self, name: ServiceName) {
        self.view.revision.0 += 1;
        self.log.push_back((self.view.revision, name));
        if self.log.len() > CHANGE_LOG
            && let Some((revision, _)) = self.log.pop_front()
        {
            self.forgotten = revision;
        }
    }
}

impl ServiceView {
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Service)> {
        self.services.iter().map(|(name, service)| (name, service.as_ref()))
    }

    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices.get(name).into_iter().flat_map(|slices| slices.iter().map(Arc::as_ref))
    }

    pub fn resolve(&self, node: &NodeView, family: IpFamily) -> ForwardingTable {
        let mut table = ForwardingTable::empty(node, family);
        for name in self.services.keys() {
            self.resolve_one(name, node, &mut table);
        }
        table.service_cidrs = self.service_cidrs(family);
        table.revision = self.revision;
        table.changes = Changes::default();
        table
    }

    /// Resolves one Service into a table. Returns the names of all ports that differ now.
    pub fn resolve_one(
        &self,
        name: &ServiceName,
        node: &NodeView,
        table: &mut ForwardingTable,
    ) -> BTreeSet<ServicePortName> {
        let resolved = match self.services.get(name) {
            Some(service) => resolve_service(name, service, self.slices(name), node, table.family),
            None => Resolved { ports: Vec::new(), problems: Vec::new() },
        };
        table.replace_service(name, resolved.ports, resolved.problems)
    }

    /// The name as it is kept already, so that there is one of it.
    fn known(&self, name: ServiceName) -> ServiceName {
        let service = self.services.get_key_value(&name).map(|(known, _)| known);
        let known = service.or_else(|| self.slices.get_key_value(&name).map(|(known, _)| known));
        known.cloned().unwrap_or(name)
    }

    fn service_cidrs(&self, family: IpFamily) -> Vec<IpNet> {
        let all: Vec<IpNet> =
            self.cidrs.values().flatten().filter(|c| IpFamily::of(c.addr()) == family).copied().collect();
        IpNet::aggregate(&all)
    }
}

impl Nodes {
    /// Makes equal names the same.
    fn share(&mut self, name: &mut Arc<str>) {
        if let Some(known) = self.names.get(name) {
            *name = known.clone();
            return;
        }
        // Nodes come and go.
        if self.names.len() > 2 * self.kept + 64 {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.kept = self.names.len();
        }
        self.names.insert(name.clone());
    }
}

fn position(slices: &[Arc<EndpointSlice>], name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|slice| slice.metadata.name.as_str().cmp(name))
}

fn name_of(service: &Service) -> ServiceName {
    ServiceName::new(&service.metadata.namespace, &service.metadata.name)
}

fn object_name(slice: &EndpointSlice) -> ObjectName {
    ObjectName { namespace: slice.metadata.namespace.clone(), name: slice.metadata.name.clone() }
}
