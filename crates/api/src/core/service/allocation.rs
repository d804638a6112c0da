//! What a Service needs from the cluster's pools: planned from the new and the old object, carried out against what is
//! free, written into the object. The API server commits addresses, ports and the Service in one transaction, so
//! nothing here is undone: a refused Service never took anything.
//!
//! On create: `default`, `plan`, `execute`, then the strategy's `prepare_for_create` and `validate`. On update the same
//! with the old object. On delete: `plan_delete`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::bands::{AddressBand, node_port_candidates};
use super::shape::{
    allocates_node_ports, has_node_ports, is_external_name, is_headless, needs_health_check, node_ports,
};
use super::{families, normalise};
use crate::address::{IpFamily, parse_ip};
use crate::field::{self, Path};
use crate::tree::{child_mut, int, list, put, text, texts};

/// Where a cluster's Services get their addresses and ports from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The ranges of all ServiceCIDRs that are ready. The first one's family is the cluster's default.
    pub service_cidrs: Vec<IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
}

impl Cluster {
    /// The families there are ranges of, the default first.
    pub fn families(&self) -> Vec<IpFamily> {
        let mut families = Vec::new();
        for family in self.service_cidrs.iter().map(|cidr| IpFamily::of(cidr.addr())) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }
}

/// An address that a Service is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIpNeed {
    /// Its place in `clusterIPs`.
    pub index: usize,
    pub family: IpFamily,
    /// The one that was asked for, if any.
    pub explicit: Option<IpAddr>,
}

/// A node port that a port of a Service is to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortNeed {
    /// Its place in `ports`.
    pub port_index: usize,
    pub protocol: String,
    /// The one that was asked for, if any.
    pub explicit: Option<u16>,
    /// The port (by its place) whose node port this one takes: the same number in another protocol.
    pub shares_with: Option<usize>,
}

/// A node port that the node's health check answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheckNeed {
    pub explicit: Option<u16>,
}

/// Everything a Service takes and gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationPlan {
    pub cluster_ips: Vec<ClusterIpNeed>,
    pub node_ports: Vec<NodePortNeed>,
    pub health_check: Option<HealthCheckNeed>,
    pub release_ips: Vec<IpAddr>,
    pub release_ports: Vec<u16>,
}

/// What carrying out a plan took, for the transaction to record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<u16>,
}

/// Why a Service can't have what it needs. `Invalid` is a 422 with these causes; the others are 500, as upstream.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AllocationError {
    #[error("the Service asks for what it cannot have")]
    Invalid(Vec<field::Error>),
    #[error("failed to allocate a serviceIP for Service {}: range is full", field::quoted(service))]
    AddressesFull { service: String },
    #[error("failed to allocate a nodePort: range is full")]
    NodePortsFull,
    #[error("failed to allocate requested HealthCheck NodePort {port}: {refusal}")]
    HealthCheckPort { port: u16, refusal: PortRefusal },
    #[error("failed to allocate a HealthCheck NodePort 0: range is full")]
    HealthCheckPortsFull,
}

/// Why a certain node port can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRefusal {
    #[error("provided port is already allocated")]
    Allocated,
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    NotInRange { first: u16, last: u16 },
}

/// Why a certain address can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    #[error("provided IP is already allocated")]
    Allocated,
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")]
    NotUsable { address: IpAddr, range: IpNet },
    #[error("the provided network does not match the current range")]
    NotInRange,
}

/// What is taken already, as the caller's snapshot knows.
pub trait Occupancy {
    fn address_free(&self, address: IpAddr) -> bool;
    fn port_free(&self, port: u16) -> bool;
}

/// Settles the fields that hang together (`clusterIP` and `clusterIPs`, families, values allocated before) in `new`, and
/// plans what it takes and gives back.
pub fn plan(new: &mut Value, old: Option<&Value>, cluster: &Cluster) -> Result<AllocationPlan, AllocationError> {
    if let Some(old) = old {
        normalise::patch_allocated_values(new, old);
    }
    normalise::pair_cluster_ips(new, old);
    families::assign(new, old, &cluster.families()).map_err(AllocationError::Invalid)?;
    refuse_impossible_ports(new, cluster)?;
    let mut plan = AllocationPlan::default();
    match old {
        None => {
            plan.cluster_ips = all_addresses(new);
            plan.node_ports = new_node_ports(new);
        }
        Some(old) => {
            plan_addresses(&mut plan, new, old);
            plan_node_ports(&mut plan, new, old);
        }
    }
    plan_health_check(&mut plan, new, old);
    Ok(plan)
}

/// Node ports that are no ports at all.
fn refuse_impossible_ports(service: &Value, cluster: &Cluster) -> Result<(), AllocationError> {
    let ports = list(&service["spec"]["ports"]).iter().enumerate();
    let mut impossible = ports.filter(|(_, port)| u16::try_from(int(&port["nodePort"])).is_err());
    match impossible.next() {
        Some((i, port)) if has_node_ports(service) => {
            let refusal =
                PortRefusal::NotInRange { first: *cluster.node_ports.start(), last: *cluster.node_ports.end() };
            let path = Path::new("spec").child("ports").index(i).child("nodePort");
            let mistake = field::Error::invalid(&path, port["nodePort"].clone(), refusal.to_string());
            Err(AllocationError::Invalid(vec![mistake]))
        }
        _ => Ok(()),
    }
}

/// What a deleted Service gives back.
pub fn plan_delete(service: &Value) -> AllocationPlan {
    let mut release_ports = port_numbers(service);
    if needs_health_check(service) {
        release_ports
            .extend(u16::try_from(int(&service["spec"]["healthCheckNodePort"])).ok().filter(|port| *port != 0));
    }
    AllocationPlan { release_ips: addresses(service), release_ports, ..AllocationPlan::default() }
}

/// Chooses what `plan` needs out of what is free and writes it into the Service. `seed` decides where dynamic picks
/// start. Ports that `plan` gives back count as taken until the transaction is done.
pub fn execute(
    plan: &AllocationPlan,
    service: &mut Value,
    cluster: &Cluster,
    occupancy: &dyn Occupancy,
    seed: u64,
) -> Result<Allocated, AllocationError> {
    let mut allocated = Allocated::default();
    reserve_places(plan, service);
    for need in &plan.cluster_ips {
        let address = choose_address(need, service, cluster, occupancy, seed)?;
        write_cluster_ip(service, need.index, address);
        allocated.addresses.push(address);
    }
    let mut ports = PortChooser { range: cluster.node_ports.clone(), occupancy, taken: BTreeSet::new(), seed };
    for need in &plan.node_ports {
        let port = match need.shares_with {
            Some(other) => u16::try_from(int(&service["spec"]["ports"][other]["nodePort"])).unwrap_or_default(),
            None => ports.choose(need)?,
        };
        write_node_port(service, need.port_index, port);
    }
    if let Some(need) = plan.health_check {
        let port = ports.choose_health_check(need)?;
        write_health_check(service, port);
    }
    allocated.ports = ports.taken.into_iter().collect();
    Ok(allocated)
}

/// Fills in what a dry run shows instead of real allocations: each range's base address and a port beyond the range.
/// Addresses that are asked for must be in a range.
pub fn execute_dry_run(plan: &AllocationPlan, service: &mut Value, cluster: &Cluster) -> Result<(), AllocationError> {
    const FIRST_PLACEHOLDER: u16 = 32_769;
    reserve_places(plan, service);
    for need in &plan.cluster_ips {
        if need.explicit.is_some() {
            choose_address(need, service, cluster, &NothingTaken, 0)?;
        }
        let base = cluster.service_cidrs.iter().map(IpNet::network).find(|base| IpFamily::of(*base) == need.family);
        if let Some(address) = need.explicit.or(base) {
            write_cluster_ip(service, need.index, address);
        }
    }
    let mut next = FIRST_PLACEHOLDER;
    for need in &plan.node_ports {
        let port = match (need.shares_with, need.explicit) {
            (Some(other), _) => u16::try_from(int(&service["spec"]["ports"][other]["nodePort"])).unwrap_or_default(),
            (None, Some(port)) => port,
            (None, None) => {
                next += 1;
                next - 1
            }
        };
        write_node_port(service, need.port_index, port);
    }
    if let Some(need) = plan.health_check {
        write_health_check(service, need.explicit.unwrap_or(next));
    }
    Ok(())
}

/// To a dry run everything is free.
struct NothingTaken;

impl Occupancy for NothingTaken {
    fn address_free(&self, _address: IpAddr) -> bool {
        true
    }

    fn port_free(&self, _port: u16) -> bool {
        true
    }
}

/// Writes an address to its place in `clusterIPs`, and to `clusterIP` if it is the first.
pub fn write_cluster_ip(service: &mut Value, index: usize, address: IpAddr) {
    let spec = child_mut(service, "spec");
    let mut all = list(&spec["clusterIPs"]).to_vec();
    if all.len() <= index {
        all.resize(index + 1, json!(""));
    }
    // An explicit address keeps the spelling it was given in.
    if parse_ip(text(&all[index])) != Some(address) {
        all[index] = address.to_string().into();
    }
    if index == 0 {
        put(spec, "clusterIP", all[0].clone());
    }
    *child_mut(spec, "clusterIPs") = all.into();
}

/// Writes a node port to a port of the Service.
pub fn write_node_port(service: &mut Value, port_index: usize, node_port: u16) {
    let ports = child_mut(child_mut(service, "spec"), "ports");
    if let Some(port) = ports.get_mut(port_index) {
        put(port, "nodePort", node_port);
    }
}

/// Writes the health check's port.
pub fn write_health_check(service: &mut Value, port: u16) {
    put(child_mut(service, "spec"), "healthCheckNodePort", port);
}

/// Makes room for the addresses that are still to come, as an error that prints the list shows it.
fn reserve_places(plan: &AllocationPlan, service: &mut Value) {
    let Some(last) = plan.cluster_ips.iter().map(|need| need.index).max() else { return };
    let spec = child_mut(service, "spec");
    let mut all = list(&spec["clusterIPs"]).to_vec();
    if all.len() <= last {
        all.resize(last + 1, json!(""));
        *child_mut(spec, "clusterIPs") = all.into();
    }
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    texts(&service["spec"]["clusterIPs"]).into_iter().filter_map(parse_ip).collect()
}

fn port_numbers(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = node_ports(service).into_iter().filter_map(|port| port.try_into().ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One address for each family, those given by the user included.
fn all_addresses(service: &Value) -> Vec<ClusterIpNeed> {
    if is_external_name(service) || text(&service["spec"]["clusterIPs"][0]) == super::shape::HEADLESS {
        return Vec::new();
    }
    let given = texts(&service["spec"]["clusterIPs"]);
    let families = texts(&service["spec"]["ipFamilies"]).into_iter().filter_map(IpFamily::named).enumerate();
    families
        .map(|(index, family)| ClusterIpNeed { index, family, explicit: given.get(index).and_then(|ip| parse_ip(ip)) })
        .collect()
}

fn plan_addresses(plan: &mut AllocationPlan, new: &Value, old: &Value) {
    if families::keeps_preferred(new, old) {
        return;
    }
    match (is_external_name(old), is_external_name(new)) {
        (true, true) => {}
        (true, false) => plan.cluster_ips = all_addresses(new),
        _ if is_headless(old) => {}
        (false, true) => plan.release_ips = addresses(old),
        (false, false) => {
            let (before, now) = (texts(&old["spec"]["ipFamilies"]).len(), texts(&new["spec"]["ipFamilies"]).len());
            match (before, now) {
                (1, 2) => plan.cluster_ips = all_addresses(new).into_iter().skip(1).collect(),
                (2, 1) => plan.release_ips = addresses(old).into_iter().skip(1).collect(),
                _ => {}
            }
        }
    }
}

/// On create, ports of one number in several protocols share a node port.
fn new_node_ports(service: &Value) -> Vec<NodePortNeed> {
    if !has_node_ports(service) {
        return Vec::new();
    }
    let ports = list(&service["spec"]["ports"]);
    let asked = |port: &Value| u16::try_from(int(&port["nodePort"])).ok().filter(|number| *number != 0);
    let mut needs: Vec<NodePortNeed> = Vec::new();
    for (port_index, port) in ports.iter().enumerate() {
        if asked(port).is_none() && !allocates_node_ports(service) {
            continue;
        }
        let number = int(&port["port"]);
        let first =
            needs.iter().find(|need| need.shares_with.is_none() && int(&ports[need.port_index]["port"]) == number);
        let (explicit, shares_with) = match first {
            // What any port of this number asks for is for all of them.
            None => (ports.iter().filter(|p| int(&p["port"]) == number).find_map(asked), None),
            Some(first) if asked(port).is_none() || asked(port) == first.explicit => (None, Some(first.port_index)),
            Some(_) => (asked(port), None),
        };
        let protocol = text(&port["protocol"]).to_owned();
        needs.push(NodePortNeed { port_index, protocol, explicit, shares_with });
    }
    needs
}

/// On update, ports that the object had stay its own, and the ones nobody uses any more go back.
fn plan_node_ports(plan: &mut AllocationPlan, new: &Value, old: &Value) {
    let before = port_numbers(old);
    if !has_node_ports(new) {
        if has_node_ports(old) {
            plan.release_ports = before;
        }
        return;
    }
    let mut asked_for = BTreeSet::new();
    for (port_index, port) in list(&new["spec"]["ports"]).iter().enumerate() {
        let explicit = u16::try_from(int(&port["nodePort"])).ok().filter(|number| *number != 0);
        let needed = match explicit {
            None => allocates_node_ports(new),
            Some(number) => !before.contains(&number) && asked_for.insert(number),
        };
        if needed {
            let protocol = text(&port["protocol"]).to_owned();
            plan.node_ports.push(NodePortNeed { port_index, protocol, explicit, shares_with: None });
        }
    }
    let now = port_numbers(new);
    plan.release_ports = before.into_iter().filter(|port| !now.contains(port)).collect();
}

fn plan_health_check(plan: &mut AllocationPlan, new: &Value, old: Option<&Value>) {
    let port = |service: &Value| u16::try_from(int(&service["spec"]["healthCheckNodePort"])).ok().filter(|p| *p != 0);
    match (old.is_some_and(needs_health_check), needs_health_check(new)) {
        (false, true) => plan.health_check = Some(HealthCheckNeed { explicit: port(new) }),
        (true, false) => plan.release_ports.extend(old.and_then(port)),
        _ => {}
    }
}

fn choose_address(
    need: &ClusterIpNeed,
    service: &Value,
    cluster: &Cluster,
    occupancy: &dyn Occupancy,
    seed: u64,
) -> Result<IpAddr, AllocationError> {
    let Some(address) = need.explicit else {
        let ranges = cluster.service_cidrs.iter().filter(|range| IpFamily::of(range.addr()) == need.family);
        let mut candidates = ranges.filter_map(AddressBand::of).flat_map(|band| band.candidates(seed));
        let service = text(&service["metadata"]["name"]).to_owned();
        return candidates
            .find(|address| occupancy.address_free(*address))
            .ok_or(AllocationError::AddressesFull { service });
    };
    let range = cluster.service_cidrs.iter().find(|range| range.contains(&address));
    let refusal = match range {
        None => AddressRefusal::NotInRange,
        Some(range) if !AddressBand::of(range).is_some_and(|band| band.contains(address)) => {
            AddressRefusal::NotUsable { address, range: range.trunc() }
        }
        Some(_) if !occupancy.address_free(address) => AddressRefusal::Allocated,
        Some(_) => return Ok(address),
    };
    let given = texts(&service["spec"]["clusterIPs"]).get(need.index).copied().unwrap_or_default().to_owned();
    let what = format!("failed to allocate IP {given}: {refusal}");
    let path = Path::new("spec").child("clusterIPs");
    Err(AllocationError::Invalid(vec![field::Error::invalid(&path, service["spec"]["clusterIPs"].clone(), what)]))
}

/// Chooses node ports, none of them twice.
struct PortChooser<'a> {
    range: RangeInclusive<u16>,
    occupancy: &'a dyn Occupancy,
    taken: BTreeSet<u16>,
    seed: u64,
}

impl PortChooser<'_> {
    fn choose(&mut self, need: &NodePortNeed) -> Result<u16, AllocationError> {
        let Some(port) = need.explicit else { return self.any().ok_or(AllocationError::NodePortsFull) };
        self.take(port).map_err(|refusal| {
            let path = Path::new("spec").child("ports").index(need.port_index).child("nodePort");
            AllocationError::Invalid(vec![field::Error::invalid(&path, port, refusal.to_string())])
        })
    }

    fn choose_health_check(&mut self, need: HealthCheckNeed) -> Result<u16, AllocationError> {
        match need.explicit {
            Some(port) => self.take(port).map_err(|refusal| AllocationError::HealthCheckPort { port, refusal }),
            None => self.any().ok_or(AllocationError::HealthCheckPortsFull),
        }
    }

    fn take(&mut self, port: u16) -> Result<u16, PortRefusal> {
        if !self.range.contains(&port) {
            return Err(PortRefusal::NotInRange { first: *self.range.start(), last: *self.range.end() });
        }
        if !self.occupancy.port_free(port) || !self.taken.insert(port) {
            return Err(PortRefusal::Allocated);
        }
        Ok(port)
    }

    fn any(&mut self) -> Option<u16> {
        let free = |port: &u16| self.occupancy.port_free(*port) && !self.taken.contains(port);
        let port = node_port_candidates(&self.range, self.seed).find(free)?;
        self.taken.insert(port);
        Some(port)
    }
}

#[cfg(test)]
#[path = "allocation_tests.rs"]
mod tests;
