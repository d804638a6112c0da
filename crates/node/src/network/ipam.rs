//! Which pod has which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use pod_runtime::SandboxId;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("no address of {0} is free")]
    Full(IpNet),
}

/// Addresses given out; kept on disk, so that a restarted agent goes on where it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ipam {
    leases: BTreeMap<SandboxId, Vec<IpAddr>>,
    /// The address given out last, by CIDR: the next search starts behind it, so that an address rests before somebody
    /// else gets it (connections and caches may still know its last owner).
    last: BTreeMap<IpNet, IpAddr>,
}

impl Ipam {
    /// One address of each CIDR; the ones it has already when they are out of these CIDRs.
    pub fn lease(&mut self, sandbox: &SandboxId, cidrs: &[IpNet]) -> Result<Vec<IpAddr>, IpamError> {
        let known = self.leases.get(sandbox).cloned().unwrap_or_default();
        let mut addresses = Vec::new();
        for cidr in cidrs {
            match known.iter().find(|address| cidr.contains(*address)) {
                Some(address) => addresses.push(*address),
                None => addresses.push(self.next(*cidr)?),
            }
        }
        self.leases.insert(sandbox.clone(), addresses.clone());
        Ok(addresses)
    }

    /// What a sandbox has.
    pub fn of(&self, sandbox: &SandboxId) -> Option<&[IpAddr]> {
        self.leases.get(sandbox).map(Vec::as_slice)
    }

    /// Gives the addresses back. False when there were none.
    pub fn release(&mut self, sandbox: &SandboxId) -> bool {
        self.leases.remove(sandbox).is_some()
    }

    /// The sandboxes that hold addresses.
    pub fn holders(&self) -> BTreeSet<SandboxId> {
        self.leases.keys().cloned().collect()
    }

    fn next(&mut self, cidr: IpNet) -> Result<IpAddr, IpamError> {
        let taken: BTreeSet<IpAddr> = self.leases.values().flatten().copied().collect();
        let (first, last) = usable(cidr);
        let start = match self.last.get(&cidr).map(|last| number(*last)) {
            Some(known) if (first..last).contains(&known) => known + 1,
            _ => first,
        };
        // No more candidates than taken ones plus one need looking at.
        let span = last - first + 1;
        let tries = span.min(u128::try_from(taken.len()).unwrap_or(u128::MAX).saturating_add(1));
        for step in 0..tries {
            let candidate = address(cidr, first + (start - first + step) % span);
            if !taken.contains(&candidate) {
                self.last.insert(cidr, candidate);
                return Ok(candidate);
            }
        }
        Err(IpamError::Full(cidr))
    }
}

/// Behind the network's own address and the gateway, up to the one before the broadcast address.
fn usable(cidr: IpNet) -> (u128, u128) {
    let first = number(cidr.network()).saturating_add(2);
    let last = match cidr {
        IpNet::V4(net) => u128::from(u32::from(net.broadcast())).saturating_sub(1),
        IpNet::V6(net) => u128::from(net.broadcast()),
    };
    (first, last.max(first))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(cidr: IpNet, number: u128) -> IpAddr {
    match cidr {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SandboxId {
        SandboxId(name.into())
    }

    fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_address_per_family_kept_by_its_holder() {
        let cidrs = ["10.244.3.0/24".parse().unwrap(), "fd00:3::/64".parse().unwrap()];
        let mut ipam = Ipam::default();
        assert_eq!(texts(ipam.lease(&id("a"), &cidrs).unwrap()), ["10.244.3.2", "fd00:3::2"]);
        assert_eq!(texts(ipam.lease(&id("b"), &cidrs).unwrap()), ["10.244.3.3", "fd00:3::3"]);
        assert_eq!(texts(ipam.lease(&id("a"), &cidrs).unwrap()), ["10.244.3.2", "fd00:3::2"]);
        let bytes = serde_json::to_vec(&ipam).unwrap();
        let mut again: Ipam = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(again, ipam);
        assert_eq!(texts(again.lease(&id("c"), &cidrs).unwrap()), ["10.244.3.4", "fd00:3::4"]);
    }

    #[test]
    fn a_returned_address_rests_until_the_others_have_been_used() {
        let cidrs = ["10.0.0.0/29".parse().unwrap()];
        let mut ipam = Ipam::default();
        ipam.lease(&id("a"), &cidrs).unwrap();
        assert!(ipam.release(&id("a")) && !ipam.release(&id("a")));
        let got: Vec<String> = (0..5).flat_map(|n| texts(ipam.lease(&id(&format!("p{n}")), &cidrs).unwrap())).collect();
        assert_eq!(got, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
        assert_eq!(ipam.lease(&id("more"), &cidrs), Err(IpamError::Full(cidrs[0])));
        ipam.release(&id("p2"));
        assert_eq!(texts(ipam.lease(&id("more"), &cidrs).unwrap()), ["10.0.0.5"]);
    }

    #[test]
    fn another_cidr_means_another_address() {
        let mut ipam = Ipam::default();
        ipam.lease(&id("a"), &["10.0.0.0/24".parse().unwrap()]).unwrap();
        assert_eq!(texts(ipam.lease(&id("a"), &["10.0.1.0/24".parse().unwrap()]).unwrap()), ["10.0.1.2"]);
    }
}
