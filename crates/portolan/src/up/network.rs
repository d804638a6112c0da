//! The address plan of a system: which networks it takes, and whether the machine has them free.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use netns::Links;

/// The networks of one system.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Pod addresses; every node gets a /24 of it.
    pub pods: Ipv4Net,
    /// ClusterIPs.
    pub services: Ipv4Net,
    /// What joins the host and the nodes.
    pub fabric: Ipv4Net,
}

/// Node addresses begin here in the fabric; below are the host, the fabric's own address and room for more.
const FIRST_NODE: u32 = 11;
const HOST: u32 = 1;
const FABRIC: u32 = 2;
const DNS: u32 = 10;
const MAX_NODES: u32 = 100;

impl Plan {
    /// Refuses networks that are too small or overlap one another, naming the flags.
    pub fn new(pods: Ipv4Net, services: Ipv4Net, fabric: Ipv4Net, nodes: u32) -> Result<Self> {
        let plan = Plan { pods: pods.trunc(), services: services.trunc(), fabric: fabric.trunc() };
        ensure!(plan.services.prefix_len() <= 24, "--service-cidr {services} is too small: a /24 at least");
        ensure!(plan.fabric.prefix_len() <= 24, "--fabric-cidr {fabric} is too small: a /24 at least");
        ensure!(plan.pods.prefix_len() <= 24, "--pod-cidr {pods} is too small: a /24 for every node");
        let room = 1u32 << (24 - plan.pods.prefix_len()).min(8);
        ensure!(nodes >= 1, "--nodes must be 1 at least");
        ensure!(nodes <= MAX_NODES, "--nodes can be {MAX_NODES} at most");
        ensure!(nodes <= room, "--pod-cidr {pods} has room for {room} nodes of a /24 each, not for {nodes}");
        let named = plan.named();
        for (i, (flag, one)) in named.iter().enumerate() {
            for (other_flag, other) in &named[i + 1..] {
                let apart = !one.contains(other) && !other.contains(one);
                ensure!(apart, "{flag} {one} and {other_flag} {other} overlap");
            }
        }
        Ok(plan)
    }

    fn named(&self) -> [(&'static str, IpNet); 3] {
        [
            ("--pod-cidr", self.pods.into()),
            ("--service-cidr", self.services.into()),
            ("--fabric-cidr", self.fabric.into()),
        ]
    }

    /// The host's address in the fabric.
    pub fn host(&self) -> IpAddr {
        nth(self.fabric, HOST)
    }

    /// Where pods and nodes reach the supervisor: the API and the way to the host's resolvers.
    pub fn fabric_address(&self) -> IpAddr {
        nth(self.fabric, FABRIC)
    }

    /// A node's address, from 0.
    pub fn node(&self, index: u32) -> IpAddr {
        nth(self.fabric, FIRST_NODE + index)
    }

    /// The ClusterIP of `kube-system/kube-dns`.
    pub fn cluster_dns(&self) -> IpAddr {
        nth(self.services, DNS)
    }

    /// An address of the fabric with the fabric's prefix length.
    pub fn in_fabric(&self, address: IpAddr) -> Result<IpNet> {
        IpNet::new(address, self.fabric.prefix_len()).context("the fabric's prefix length")
    }

    /// Fails when a route of the host leads to one of our networks or to a part of it: its traffic would be ours. A
    /// route to something wider (a VPN's 10.0.0.0/8, say) does no harm: ours are more specific.
    pub async fn check_host(&self, host: &Links) -> Result<()> {
        for (to, device) in host.routes().await.context("cannot read the host's routes")? {
            for (flag, ours) in self.named() {
                if ours.contains(&to) {
                    let device = device.map(|d| format!(" on {d}")).unwrap_or_default();
                    bail!("this machine has a route to {to}{device}, inside {flag} {ours}; choose another with {flag}");
                }
            }
        }
        Ok(())
    }
}

fn nth(network: Ipv4Net, n: u32) -> IpAddr {
    IpAddr::V4((u32::from(network.network()) + n).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pods: &str, services: &str, fabric: &str, nodes: u32) -> Result<Plan> {
        Plan::new(pods.parse().unwrap(), services.parse().unwrap(), fabric.parse().unwrap(), nodes)
    }

    #[test]
    fn networks_that_overlap_or_are_too_small_are_refused_by_their_flags() {
        let says = |result: Result<Plan>| result.unwrap_err().to_string();
        let overlap = says(plan("10.244.0.0/16", "10.244.1.0/24", "172.30.0.0/24", 1));
        assert_eq!(overlap, "--pod-cidr 10.244.0.0/16 and --service-cidr 10.244.1.0/24 overlap");
        assert!(says(plan("10.244.0.0/16", "10.96.0.0/30", "172.30.0.0/24", 1)).contains("--service-cidr"));
        assert!(says(plan("10.244.0.0/24", "10.96.0.0/16", "172.30.0.0/24", 2)).contains("room for 1 nodes"));
        assert!(says(plan("10.244.0.0/16", "10.96.0.0/16", "172.30.0.0/24", 0)).contains("--nodes"));
        let plan = plan("10.244.0.0/16", "10.96.0.0/16", "172.30.0.0/24", 3).unwrap();
        assert_eq!(plan.node(2).to_string(), "172.30.0.13");
        assert_eq!(plan.cluster_dns().to_string(), "10.96.0.10");
    }

    #[tokio::test]
    async fn only_a_route_inside_ours_is_a_clash() {
        let namespace = netns::NetNs::new().unwrap();
        let host = Links::of(&namespace).unwrap();
        let plan = plan("10.244.0.0/16", "10.96.0.0/16", "172.30.0.0/24", 1).unwrap();
        host.loopback_up().await.unwrap();
        host.add_route(&netns::Route::direct("10.0.0.0/8".parse().unwrap(), "lo")).await.unwrap();
        plan.check_host(&host).await.unwrap();
        host.add_route(&netns::Route::direct("10.96.7.0/24".parse().unwrap(), "lo")).await.unwrap();
        let error = plan.check_host(&host).await.unwrap_err().to_string();
        assert!(error.contains("10.96.7.0/24 on lo") && error.contains("--service-cidr"), "{error}");
    }
}
