//! An IPVS in memory that refuses what the kernel refuses, and whose connections are what a test says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::error::{IpvsError, Reason};
use crate::server::{DestinationState, Family, Op, Server, ServerKey};
use crate::{Addresses, Ipvs};

#[derive(Debug, Clone, Default)]
pub struct Fake {
    servers: BTreeMap<ServerKey, (Server, BTreeMap<SocketAddr, DestinationState>)>,
    bound: BTreeSet<IpAddr>,
    others: BTreeSet<IpAddr>,
    device_exists: bool,
}

impl Fake {
    /// With these addresses on devices of others.
    pub fn with_addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { others: addresses.into_iter().collect(), ..Self::default() }
    }

    /// Says how many connections a destination has. False if there is no such destination.
    pub fn occupy(&mut self, server: &ServerKey, at: SocketAddr, active: u32, inactive: u32) -> bool {
        let found = self.servers.get_mut(server).and_then(|(_, destinations)| destinations.get_mut(&at));
        found.is_some_and(|state| {
            (state.active, state.inactive) = (active, inactive);
            true
        })
    }

    /// A server's destinations, if this may be one of them.
    fn destinations_for(
        &mut self,
        server: &ServerKey,
        at: &SocketAddr,
    ) -> Result<&mut BTreeMap<SocketAddr, DestinationState>, Reason> {
        let (_, destinations) = self.servers.get_mut(server).ok_or(Reason::NoServer)?;
        if Family::of(at.ip()) == server.family() { Ok(destinations) } else { Err(Reason::Invalid) }
    }

    fn apply(&mut self, op: &Op) -> Result<(), Reason> {
        match op {
            Op::AddServer(key, _) if self.servers.contains_key(key) => return Err(Reason::Exists),
            Op::AddServer(key, server) => drop(self.servers.insert(*key, (server.clone(), BTreeMap::new()))),
            Op::SetServer(key, server) => self.servers.get_mut(key).ok_or(Reason::NoServer)?.0 = server.clone(),
            Op::DeleteServer(key) => drop(self.servers.remove(key).ok_or(Reason::NoServer)?),
            Op::AddDestination(key, at, destination) => {
                let destinations = self.destinations_for(key, at)?;
                if destinations.contains_key(at) {
                    return Err(Reason::Exists);
                }
                let state = DestinationState { destination: *destination, active: 0, inactive: 0 };
                destinations.insert(*at, state);
            }
            Op::SetDestination(key, at, destination) => {
                self.destinations_for(key, at)?.get_mut(at).ok_or(Reason::Missing)?.destination = *destination;
            }
            Op::DeleteDestination(key, at) => {
                let (_, destinations) = self.servers.get_mut(key).ok_or(Reason::NoServer)?;
                destinations.remove(at).ok_or(Reason::Missing)?;
            }
        }
        Ok(())
    }
}

impl Ipvs for Fake {
    fn servers(&mut self, family: Family) -> Result<BTreeMap<ServerKey, Server>, IpvsError> {
        let of_family = self.servers.iter().filter(|(key, _)| key.family() == family);
        Ok(of_family.map(|(key, (server, _))| (*key, server.clone())).collect())
    }

    fn destinations(&mut self, server: &ServerKey) -> Result<BTreeMap<SocketAddr, DestinationState>, IpvsError> {
        Ok(self.servers.get(server).map(|(_, destinations)| destinations.clone()).unwrap_or_default())
    }

    fn change(&mut self, ops: &[Op]) -> Result<(), IpvsError> {
        for (index, op) in ops.iter().enumerate() {
            self.apply(op).map_err(|reason| IpvsError::Refused { index, reason, shown: op.to_string() })?;
        }
        Ok(())
    }

    fn addresses(&mut self, family: Family) -> Result<Addresses, IpvsError> {
        let of_family =
            |from: &BTreeSet<IpAddr>| from.iter().copied().filter(|address| Family::of(*address) == family).collect();
        let (bound, others) = (of_family(&self.bound), of_family(&self.others));
        Ok(Addresses { bound, others, device_exists: self.device_exists })
    }

    fn bind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        self.device_exists = true;
        self.bound.extend(addresses);
        Ok(())
    }

    fn unbind(&mut self, addresses: &[IpAddr]) -> Result<(), IpvsError> {
        self.bound.retain(|address| !addresses.contains(address));
        Ok(())
    }

    fn remove_device(&mut self) -> Result<(), IpvsError> {
        self.device_exists = false;
        self.bound.clear();
        Ok(())
    }
}
