//! The canonical form of v1 Endpoints' subsets: each pair of an address and a port once, ports that lead to the same
//! addresses together. Not responsible for which addresses there are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

use crate::ports::Port;

/// Addresses that have their ports in common, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subset {
    pub ports: Vec<Port>,
    pub ready: Vec<EndpointAddress>,
    pub not_ready: Vec<EndpointAddress>,
}

/// An address counts once for each target, as upstream has it.
type Identity = (Option<IpAddr>, String, Option<String>);

/// Pairs of addresses and ports on their way to being subsets.
#[derive(Default)]
pub struct Pairs {
    addresses: BTreeMap<Identity, EndpointAddress>,
    /// Readiness by port and address; `None` stands for no port at all.
    by_port: BTreeMap<Option<Port>, BTreeMap<Identity, bool>>,
}

impl Pairs {
    /// Adds an address under each port, or under none if the list is empty. Of two claims about one pair, "not ready"
    /// wins.
    pub fn add(&mut self, address: EndpointAddress, ports: &[Port], ready: bool) {
        let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone());
        let identity = (address.ip.parse().ok(), address.ip.clone(), uid);
        self.addresses.entry(identity.clone()).or_insert(address);
        let keys = if ports.is_empty() { vec![None] } else { ports.iter().cloned().map(Some).collect() };
        for port in keys {
            let held = self.by_port.entry(port).or_default().entry(identity.clone()).or_insert(ready);
            *held &= ready;
        }
    }

    pub fn add_subset(&mut self, subset: &EndpointSubset) {
        let ports: Vec<Port> = subset.ports.as_deref().unwrap_or_default().iter().map(port_of).collect();
        let lists = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
        for (addresses, ready) in lists {
            for address in addresses.as_deref().unwrap_or_default() {
                self.add(address.clone(), &ports, ready);
            }
        }
    }

    /// The subsets, ordered by their ports.
    pub fn subsets(self) -> Vec<Subset> {
        let mut by_addresses: BTreeMap<Vec<(Identity, bool)>, Vec<Port>> = BTreeMap::new();
        for (port, addresses) in self.by_port {
            by_addresses.entry(addresses.into_iter().collect()).or_default().extend(port);
        }
        let mut subsets: Vec<Subset> = by_addresses
            .into_iter()
            .map(|(addresses, ports)| {
                let list = |wanted: bool| {
                    let chosen = addresses.iter().filter(|(_, ready)| *ready == wanted);
                    chosen.filter_map(|(identity, _)| self.addresses.get(identity).cloned()).collect()
                };
                Subset { ready: list(true), not_ready: list(false), ports }
            })
            .collect();
        subsets.sort_by(|a, b| a.ports.cmp(&b.ports));
        subsets
    }
}

/// Stored subsets in their canonical form, whatever form they have.
pub fn canonical(subsets: &[EndpointSubset]) -> Vec<Subset> {
    let mut pairs = Pairs::default();
    subsets.iter().for_each(|subset| pairs.add_subset(subset));
    pairs.subsets()
}

impl Subset {
    pub fn render(self) -> EndpointSubset {
        let ports: Vec<EndpointPort> = self
            .ports
            .into_iter()
            .map(|port| EndpointPort {
                name: Some(port.name).filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: Some(port.protocol),
                app_protocol: port.app_protocol,
            })
            .collect();
        let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
        EndpointSubset {
            addresses: some(self.ready),
            not_ready_addresses: some(self.not_ready),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        }
    }
}

fn port_of(port: &EndpointPort) -> Port {
    Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}
