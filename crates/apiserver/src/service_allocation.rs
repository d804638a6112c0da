//! ClusterIPs and node ports, given out and taken back in the Service's own transaction: an address is taken by the
//! IPAddress object it is named by, a port by a key of its own, and either commits together with the Service or not
//! at all. There is nothing to repair afterwards.
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
use serde_json::{Value, json};
use store::{Compare, Op, Range};

use crate::Config;
use crate::kinds;
use crate::registry::metadata::{text, uid};
use crate::registry::{Answer, Changes, Registry, Scene, encode, store_failed, stored, time};

const ADDRESSES: &str = "/registry/networking.k8s.io/ipaddresses/";
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
                if registry.store.get(&address_key(*address)).await.map_err(store_failed)?.is_some() {
                    taken.addresses.insert(*address);
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
            let key = address_key(*address);
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
        let addresses = registry.store.range(Range::prefix(ADDRESSES)).await.map_err(store_failed)?;
        let names = addresses.entries.iter().filter_map(|entry| entry.key.strip_prefix(ADDRESSES));
        taken.addresses.extend(names.filter_map(|name| name.parse::<IpAddr>().ok()));
        let ports = registry.store.range(Range::prefix(PORTS)).await.map_err(store_failed)?;
        let names = ports.entries.iter().filter_map(|entry| entry.key.strip_prefix(PORTS));
        taken.ports.extend(names.filter_map(|name| name.parse::<u16>().ok()));
        Ok(())
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
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
        let key: store::Key = address_key(*address).into();
        let object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": address.to_string(),
                "uid": uid(),
                "creationTimestamp": time(scene.now),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": {"parentRef": parent(service)},
        });
        changes.compares.push(Compare::Absent(key.clone()));
        changes.ops.push(Op::put(key, encode(&object)));
    }
    for port in ports {
        let key: store::Key = port_key(*port).into();
        changes.compares.push(Compare::Absent(key.clone()));
        changes.ops.push(Op::put(key, parent(service).to_string()));
    }
}

fn refusal(error: AllocationError, name: &str) -> Status {
    match error {
        AllocationError::Invalid(mistakes) => Status::invalid("", "Service", name, &mistakes),
        other => Status::internal(other),
    }
}
