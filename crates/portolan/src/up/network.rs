//! The address plan of a system: which networks it takes, by IP family, and what is where in them. Whether the machine
//! has them free is `clash`'s to say.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cli::{Egress, Up};
use crate::system::forwarding::Families;

/// The networks of one system.
#[derive(Clone, Debug)]
pub struct Plan {
    v4: Networks<Ipv4Net>,
    /// Of a dual-stack system; IPv4 stays the primary family.
    v6: Option<Networks<Ipv6Net>>,
    egress: Egress,
}

/// The networks of one IP family.
#[derive(Clone, Copy, Debug)]
struct Networks<N> {
    /// Pod addresses, of which every node gets a part.
    pods: N,
    /// ClusterIPs.
    services: N,
    /// What joins the host and the nodes.
    fabric: N,
}

/// The flags by which each network is chosen.
pub const POD_FLAG: &str = "--pod-cidr";
pub const SERVICE_FLAG: &str = "--service-cidr";
pub const FABRIC_FLAG: &str = "--fabric-cidr";

/// Private networks (RFC 4193) for a dual-stack system that is given none.
const PODS_V6: &str = "fd00:10:244::/56";
const SERVICES_V6: &str = "fd00:10:96::/112";
const FABRIC_V6: &str = "fd00:172:30::/64";

/// What a node gets of the pods' networks.
const NODE_V4: u8 = 24;
const NODE_V6: u8 = 64;
/// The API server keeps at most so many bits of a range of ClusterIPs (`--service-cluster-ip-range` has 20).
const SERVICE_BITS: u8 = 20;

/// Node addresses begin here in the fabric; below are the host, the fabric's own address and room for more.
const FIRST_NODE: u32 = 11;
const HOST: u32 = 1;
const FABRIC: u32 = 2;
const FIRST_SERVICE: u32 = 1;
const DNS: u32 = 10;
const MAX_NODES: u32 = 100;

impl Plan {
    /// Refuses networks that are too small or overlap one another, naming the flags.
    pub fn new(options: &Up) -> Result<Self> {
        let (pods, services) =
            (by_family(POD_FLAG, &options.pod_cidr)?, by_family(SERVICE_FLAG, &options.service_cidr)?);
        let fabric = by_family(FABRIC_FLAG, &options.fabric_cidr)?;
        let v4 = Networks { pods: pods.0, services: services.0, fabric: fabric.0 };
        let given = [pods.1, services.1, fabric.1];
        let v6 = if options.dual_stack || given.iter().any(Option::is_some) {
            let or = |given: Option<Ipv6Net>, default: &str| given.map_or_else(|| default.parse(), Ok);
            let [pods, services, fabric] = given;
            Some(Networks {
                pods: or(pods, PODS_V6)?,
                services: or(services, SERVICES_V6)?,
                fabric: or(fabric, FABRIC_V6)?,
            })
        } else {
            None
        };
        let plan = Plan { v4, v6, egress: options.egress.unwrap_or(Egress::Relay) };
        plan.check_sizes(options.nodes)?;
        plan.check_overlaps()?;
        Ok(plan)
    }

    fn check_sizes(&self, nodes: u32) -> Result<()> {
        ensure!(nodes >= 1, "--nodes must be 1 at least");
        ensure!(nodes <= MAX_NODES, "--nodes can be {MAX_NODES} at most");
        let Networks { pods, services, fabric } = self.v4;
        ensure!(services.prefix_len() <= 24, "{SERVICE_FLAG} {services} is too small: a /24 at least");
        ensure!(fabric.prefix_len() <= 24, "{FABRIC_FLAG} {fabric} is too small: a /24 at least");
        check_room(pods.into(), NODE_V4, nodes)?;
        if let Some(Networks { pods, services, fabric }) = self.v6 {
            ensure!(services.prefix_len() <= 120, "{SERVICE_FLAG} {services} is too small: a /120 at least");
            let widest = 128 - SERVICE_BITS;
            ensure!(services.prefix_len() >= widest, "{SERVICE_FLAG} {services} is too big: a /{widest} at most");
            ensure!(fabric.prefix_len() <= 120, "{FABRIC_FLAG} {fabric} is too small: a /120 at least");
            check_room(pods.into(), NODE_V6, nodes)?;
        }
        Ok(())
    }

    fn check_overlaps(&self) -> Result<()> {
        let named = self.named();
        for (i, (flag, one)) in named.iter().enumerate() {
            for (other_flag, other) in &named[i + 1..] {
                let apart = !one.contains(other) && !other.contains(one);
                ensure!(apart, "{flag} {one} and {other_flag} {other} overlap");
            }
        }
        Ok(())
    }

    /// Every network, with the flag that chooses it.
    pub fn named(&self) -> Vec<(&'static str, IpNet)> {
        let flags = [POD_FLAG, SERVICE_FLAG, FABRIC_FLAG];
        let v4 = [self.v4.pods, self.v4.services, self.v4.fabric].map(IpNet::V4);
        let v6 = self.v6.map(|v6| [v6.pods, v6.services, v6.fabric].map(IpNet::V6));
        flags.into_iter().zip(v4).chain(v6.into_iter().flat_map(|v6| flags.into_iter().zip(v6))).collect()
    }

    fn of(&self, flag: &str) -> Vec<IpNet> {
        self.named().into_iter().filter(|(known, _)| *known == flag).map(|(_, net)| net).collect()
    }

    /// The pods' networks, IPv4 first, as all lists here.
    pub fn pods(&self) -> Vec<IpNet> {
        self.of(POD_FLAG)
    }

    pub fn pods_v4(&self) -> Ipv4Net {
        self.v4.pods
    }

    pub fn pods_v6(&self) -> Option<Ipv6Net> {
        self.v6.map(|v6| v6.pods)
    }

    pub fn services_v4(&self) -> Ipv4Net {
        self.v4.services
    }

    pub fn services(&self) -> Vec<IpNet> {
        self.of(SERVICE_FLAG)
    }

    /// The host's addresses in the fabric.
    pub fn hosts(&self) -> Vec<IpAddr> {
        self.in_each(FABRIC_FLAG, HOST)
    }

    /// Where pods and nodes reach the supervisor: the API and the way to the host's resolvers.
    pub fn fabric_addresses(&self) -> Vec<IpAddr> {
        self.in_each(FABRIC_FLAG, FABRIC)
    }

    /// The fabric's address of the primary family.
    pub fn fabric_address(&self) -> IpAddr {
        nth(self.v4.fabric.into(), FABRIC)
    }

    /// A node's addresses, from 0.
    pub fn node(&self, index: u32) -> Vec<IpAddr> {
        self.in_each(FABRIC_FLAG, FIRST_NODE + index)
    }

    /// Its address of the primary family.
    pub fn node_v4(&self, index: u32) -> IpAddr {
        nth(self.v4.fabric.into(), FIRST_NODE + index)
    }

    /// Which node has an address.
    pub fn node_of(&self, address: IpAddr) -> Option<u32> {
        (0..MAX_NODES).find(|index| self.node(*index).contains(&address))
    }

    /// The ClusterIPs of `default/kubernetes`.
    pub fn first_services(&self) -> Vec<IpAddr> {
        self.in_each(SERVICE_FLAG, FIRST_SERVICE)
    }

    /// The ClusterIPs of `kube-system/kube-dns`.
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        self.in_each(SERVICE_FLAG, DNS)
    }

    fn in_each(&self, flag: &str, n: u32) -> Vec<IpAddr> {
        self.of(flag).into_iter().map(|net| nth(net, n)).collect()
    }

    /// What isn't outside.
    pub fn inside(&self) -> Vec<IpNet> {
        self.named().into_iter().map(|(_, net)| net).collect()
    }

    /// Where packets of pods and nodes come from.
    pub fn sources(&self) -> Vec<IpNet> {
        [self.of(POD_FLAG), self.of(FABRIC_FLAG)].concat()
    }

    pub fn families(&self) -> Families {
        Families { v4: true, v6: self.v6.is_some() }
    }

    /// Where nodes send what isn't inside: to the fabric, or straight to the host's kernel.
    pub fn way_out(&self) -> Vec<IpAddr> {
        match self.egress {
            Egress::Relay | Egress::None => self.fabric_addresses(),
            Egress::Nat => self.hosts(),
        }
    }

    /// Where the way to the host's resolvers begins, unless there is no way out.
    pub fn resolver(&self) -> Option<IpAddr> {
        (self.egress != Egress::None).then(|| self.fabric_address())
    }

    /// An address of the fabric with the fabric's prefix length.
    pub fn in_fabric(&self, address: IpAddr) -> Result<IpNet> {
        let fabric = self.of(FABRIC_FLAG).into_iter().find(|net| net.contains(&address));
        let fabric = fabric.with_context(|| format!("{address} is not in the fabric"))?;
        IpNet::new(address, fabric.prefix_len()).context("the fabric's prefix length")
    }
}

/// A flag's networks: one of IPv4, and perhaps one of IPv6 after it.
fn by_family(flag: &str, nets: &[IpNet]) -> Result<(Ipv4Net, Option<Ipv6Net>)> {
    match nets {
        [IpNet::V4(v4)] => Ok((v4.trunc(), None)),
        [IpNet::V4(v4), IpNet::V6(v6)] => Ok((v4.trunc(), Some(v6.trunc()))),
        _ => bail!("{flag} takes an IPv4 network, and for a dual-stack system an IPv6 network after a comma"),
    }
}

fn check_room(pods: IpNet, node: u8, nodes: u32) -> Result<()> {
    let prefix = pods.prefix_len();
    ensure!(prefix <= node, "{POD_FLAG} {pods} is too small: a /{node} for every node");
    let room = 1u32 << (node - prefix).min(8);
    ensure!(nodes <= room, "{POD_FLAG} {pods} has room for {room} nodes of a /{node} each, not for {nodes}");
    Ok(())
}

fn nth(network: IpNet, n: u32) -> IpAddr {
    match network {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + n).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + u128::from(n)).into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(flags: &[&str]) -> Result<Plan> {
        let cli = Cli::try_parse_from(["portolan", "up"].iter().chain(flags)).map_err(anyhow::Error::from)?;
        let Command::Up(options) = cli.command else { panic!("no up") };
        Plan::new(&options)
    }

    fn texts<T: ToString>(values: Vec<T>) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_that_overlap_or_are_too_small_are_refused_by_their_flags() {
        let says = |flags: &[&str]| plan(flags).unwrap_err().to_string();
        let overlap = says(&["--service-cidr", "10.244.1.0/24"]);
        assert_eq!(overlap, "--pod-cidr 10.244.0.0/16 and --service-cidr 10.244.1.0/24 overlap");
        assert!(says(&["--service-cidr", "10.96.0.0/30"]).contains("--service-cidr"));
        assert!(says(&["--pod-cidr", "10.244.0.0/24", "--nodes", "2"]).contains("room for 1 nodes"));
        assert!(says(&["--nodes", "0"]).contains("--nodes"));
        assert!(says(&["--pod-cidr", "fd00::/56"]).contains("--pod-cidr takes an IPv4 network"));
        assert!(says(&["--service-cidr", "10.96.0.0/16,fd00::/64"]).contains("too big"));
        assert!(says(&["--pod-cidr", "10.244.0.0/16,fd00::/64", "--nodes", "2"]).contains("room for 1 nodes"));
        let both = says(&["--pod-cidr", "10.244.0.0/16,fd00:10:96::/56", "--dual-stack"]);
        assert!(both.contains("--pod-cidr fd00:10:96::/56 and --service-cidr fd00:10:96::/112 overlap"), "{both}");
    }

    #[test]
    fn everything_has_its_place_in_each_family() {
        let single = plan(&["--nodes", "3"]).unwrap();
        assert_eq!(texts(single.node(2)), ["172.30.0.13"]);
        assert_eq!(texts(single.cluster_dns()), ["10.96.0.10"]);
        let dual = plan(&["--dual-stack"]).unwrap();
        assert_eq!(texts(dual.node(2)), ["172.30.0.13", "fd00:172:30::d"]);
        assert_eq!(dual.node_of("fd00:172:30::d".parse().unwrap()), Some(2));
        assert_eq!(texts(dual.cluster_dns()), ["10.96.0.10", "fd00:10:96::a"]);
        assert_eq!(texts(dual.pods()), ["10.244.0.0/16", "fd00:10:244::/56"]);
        let chosen = plan(&["--pod-cidr", "10.1.0.0/16,fd01::/56"]).unwrap();
        assert_eq!(texts(chosen.pods()), ["10.1.0.0/16", "fd01::/56"]);
        assert_eq!(chosen.services().len(), 2, "one family's network is the wish for both");
    }
}
