//! ClusterIPs and node ports, given out and taken back in the Service's own transaction: an address is taken by a key
//! of its own and by the IPAddress object that is named by it, a port by a key of its own, and all commit together with
//! the Service or not at all. IPAddress objects are anybody's to delete; the address stays taken, and its object comes
//! back.
//!
//! Not responsible for which ones are chosen: `api::core::service::allocation` plans that.

use std::collections::HashSet;
use std::net::IpAddr;

use api::core::service::allocation::{
    AllocationError, AllocationPlan, Cluster, Occupancy, execute, execute_dry_run, plan, plan_delete,
};
use api::status::Status;
use api::{Resource, tree};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Compare, Op, Range, Txn};

use crate::Config;
use crate::kinds;
use crate::registry::metadata::{text, uid};
use crate::registry::{Answer, Changes, Registry, Scene, encode, store_failed, stored, time};

const ADDRESSES: &str = "/registry/networking.k8s.io/ipaddresses/";
const HELD: &str = "/registry/ranges/serviceips/";
const PORTS: &str = "/registry/ranges/servicenodeports/";

/// After this many chosen ones turned out to be taken, everything that is taken is read at once.
const GUESSES: usize = 16;

/// The pools of a cluster.
pub struct Allocator {
    configured: Cluster,
}

/// What is known to be taken; everything else is tried.
#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

impl Occupancy for Taken {
    fn address_free(&self, address: IpAddr) -> bool {
        !self.addresses.contains(&address)
    }

    fn port_free(&self, port: u16) -> bool {
        !self.ports.contains(&port)
    }
}

impl Allocator {
    pub fn new(config: &Config) -> Self {
        let service_cidrs = config.service_cidrs.clone();
        Allocator { configured: Cluster { service_cidrs, node_ports: config.node_port_range.clone() } }
    }

    /// Gives a new or changed Service what it needs, and the transaction what records it. Other kinds pass by.
    pub async fn allocate(
        &self,
        registry: &Registry,
        scene: &Scene<'_>,
        old: Option<&Value>,
        new: &mut Value,
        changes: &mut Changes,
    ) -> Answer<()> {
        if !is_service(scene.resource()) || !scene.target.subresource.is_empty() {
            return Ok(());
        }
        let cluster = self.cluster(registry).await?;
        let refused = |new: &Value, error| Box::new(refusal(error, text(new, "name")));
        let plan = plan(new, old, &cluster).map_err(|error| refused(new, error))?;
        if scene.dry_run {
            return execute_dry_run(&plan, new, &cluster).map_err(|error| refused(new, error));
        }
        let seed = rand::random();
        let mut taken = Taken::default();
        for guess in 0.. {
            let mut candidate = new.clone();
            let chosen = execute(&plan, &mut candidate, &cluster, &taken, seed).map_err(|error| refused(new, error))?;
            if guess == GUESSES {
                self.read_all(registry, &mut taken).await?;
                continue;
            }
            let before = taken.addresses.len() + taken.ports.len();
            for address in &chosen.addresses {
                for key in [held_key(*address), address_key(*address)] {
                    if registry.store.get(&key).await.map_err(store_failed)?.is_some() {
                        taken.addresses.insert(*address);
                    }
                }
            }
            for port in &chosen.ports {
                if registry.store.get(&port_key(*port)).await.map_err(store_failed)?.is_some() {
                    taken.ports.insert(*port);
                }
            }
            if taken.addresses.len() + taken.ports.len() > before {
                continue;
            }
            *new = candidate;
            record(scene, new, &chosen.addresses, &chosen.ports, changes);
            break;
        }
        self.give_back(registry, new, &plan, changes).await
    }

    /// Takes back what a Service had. Other kinds pass by.
    pub async fn release(
        &self,
        registry: &Registry,
        scene: &Scene<'_>,
        old: &Value,
        changes: &mut Changes,
    ) -> Answer<()> {
        if !is_service(scene.resource()) {
            return Ok(());
        }
        self.give_back(registry, old, &plan_delete(old), changes).await
    }

    async fn give_back(
        &self,
        registry: &Registry,
        service: &Value,
        plan: &AllocationPlan,
        changes: &mut Changes,
    ) -> Answer<()> {
        for address in &plan.release_ips {
            let (held, key) = (held_key(*address), address_key(*address));
            let holder = registry.store.get(&held).await.map_err(store_failed)?;
            if holder.is_some_and(|holder| *holder.value == *parent(service).to_string().as_bytes()) {
                changes.ops.push(Op::delete(held));
            }
            // Only what is recorded as this Service's is its to give back.
            if let Some(found) = registry.read(&key).await?
                && found.object["spec"]["parentRef"] == parent(service)
            {
                changes.ops.push(Op::delete(key));
            }
        }
        changes.ops.extend(plan.release_ports.iter().map(|port| Op::delete(port_key(*port))));
        Ok(())
    }

    /// An IPAddress was deleted: while a Service has the address, its object comes back. Other kinds pass by.
    pub async fn restore(&self, registry: &Registry, scene: &Scene<'_>, deleted: &Value) {
        let address = text(deleted, "name").parse::<IpAddr>();
        let (true, Ok(address)) = (is_address(scene.resource()), address) else { return };
        if let Err(status) = self.write_object(registry, scene.now, address).await {
            tracing::warn!(%status, %address, "the IPAddress of a Service could not be put back; the address stays taken");
        }
    }

    async fn write_object(&self, registry: &Registry, now: Timestamp, address: IpAddr) -> Answer<()> {
        let key: store::Key = held_key(address).into();
        let Some(holder) = registry.store.get(&key).await.map_err(store_failed)? else { return Ok(()) };
        let parent: Value = serde_json::from_slice(&holder.value).unwrap_or_default();
        let object: store::Key = address_key(address).into();
        let compares = vec![Compare::Modified(key, holder.modified), Compare::Absent(object.clone())];
        let ops = vec![Op::put(object, encode(&address_object(now, address, &parent)))];
        // A conflict is somebody who was faster at either.
        registry.store.txn(Txn { compares, ops }).await.map_err(store_failed).map(drop)
    }

    /// Makes sure that every Service's addresses are taken and have their objects. They do unless the server ended
    /// between an IPAddress's deletion and its return, or the Services were made before addresses had keys of their own.
    pub async fn repair(&self, registry: &Registry, now: Timestamp) -> Answer<()> {
        let Some(services) = registry.kinds.core("services") else { return Ok(()) };
        let keys = async |prefix: &str| -> Answer<HashSet<String>> {
            let found = registry.store.range(Range::prefix(prefix)).await.map_err(store_failed)?;
            Ok(found.entries.iter().map(|entry| entry.key.to_string()).collect())
        };
        let (mut held, objects) = (keys(HELD).await?, keys(ADDRESSES).await?);
        let range = Range::prefix(kinds::prefix(services, None));
        for entry in registry.store.range(range).await.map_err(store_failed)?.entries {
            let service = stored(&entry)?.object;
            for address in plan_delete(&service).release_ips {
                let key = held_key(address);
                if held.insert(key.clone()) {
                    let key: store::Key = key.into();
                    let compares =
                        vec![Compare::Modified(entry.key.clone(), entry.modified), Compare::Absent(key.clone())];
                    let ops = vec![Op::put(key, parent(&service).to_string())];
                    registry.store.txn(Txn { compares, ops }).await.map_err(store_failed)?;
                }
                if !objects.contains(&address_key(address)) {
                    self.write_object(registry, now, address).await?;
                }
            }
        }
        Ok(())
    }

    /// The configured ranges, and those of further ServiceCIDRs that aren't being deleted.
    async fn cluster(&self, registry: &Registry) -> Answer<Cluster> {
        let mut cluster = self.configured.clone();
        let Some(resource) = registry.kinds.find("networking.k8s.io", "v1", "servicecidrs") else { return Ok(cluster) };
        let range = Range::prefix(kinds::prefix(resource, None));
        for entry in registry.store.range(range).await.map_err(store_failed)?.entries {
            let object = stored(&entry)?.object;
            if object["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let cidrs = tree::texts(&object["spec"]["cidrs"]).into_iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
            for cidr in cidrs {
                if !cluster.service_cidrs.contains(&cidr) {
                    cluster.service_cidrs.push(cidr);
                }
            }
        }
        Ok(cluster)
    }

    async fn read_all(&self, registry: &Registry, taken: &mut Taken) -> Answer<()> {
        for prefix in [HELD, ADDRESSES] {
            let addresses = registry.store.range(Range::prefix(prefix)).await.map_err(store_failed)?;
            let names = addresses.entries.iter().filter_map(|entry| entry.key.strip_prefix(prefix));
            taken.addresses.extend(names.filter_map(|name| name.parse::<IpAddr>().ok()));
        }
        let ports = registry.store.range(Range::prefix(PORTS)).await.map_err(store_failed)?;
        let names = ports.entries.iter().filter_map(|entry| entry.key.strip_prefix(PORTS));
        taken.ports.extend(names.filter_map(|name| name.parse::<u16>().ok()));
        Ok(())
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

fn is_address(resource: &Resource) -> bool {
    resource.group == "networking.k8s.io" && resource.plural == "ipaddresses"
}

/// Taken for as long as a Service has the address, whatever becomes of the IPAddress.
fn held_key(address: IpAddr) -> String {
    format!("{HELD}{address}")
}

fn address_key(address: IpAddr) -> String {
    format!("{ADDRESSES}{address}")
}

fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

/// The reference by which an address names its Service.
fn parent(service: &Value) -> Value {
    json!({"resource": "services", "namespace": text(service, "namespace"), "name": text(service, "name")})
}

fn record(scene: &Scene<'_>, service: &Value, addresses: &[IpAddr], ports: &[u16], changes: &mut Changes) {
    for address in addresses {
        let (held, object): (store::Key, store::Key) = (held_key(*address).into(), address_key(*address).into());
        changes.compares.extend([Compare::Absent(held.clone()), Compare::Absent(object.clone())]);
        changes.ops.push(Op::put(held, parent(service).to_string()));
        changes.ops.push(Op::put(object, encode(&address_object(scene.now, *address, &parent(service)))));
    }
    for port in ports {
        let key: store::Key = port_key(*port).into();
        changes.compares.push(Compare::Absent(key.clone()));
        changes.ops.push(Op::put(key, parent(service).to_string()));
    }
}

/// The IPAddress of a Service.
fn address_object(now: Timestamp, address: IpAddr, parent: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": uid(),
            "creationTimestamp": time(now),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": parent},
    })
}

fn refusal(error: AllocationError, name: &str) -> Status {
    match error {
        AllocationError::Invalid(mistakes) => Status::invalid("", "Service", name, &mistakes),
        other => Status::internal(other),
    }
}
