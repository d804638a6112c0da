//! Who asks whom: senders and targets by the part they play, and the addresses they have in each family. Not responsible
//! for what comes of it (`expected`) nor for sending anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use service_model::{IpFamily, Packet, Port, Protocol, Source};

use crate::battery::World;

/// A pod, by its place in the [`World`] of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pod {
    /// On the node that is looked at.
    Here(usize),
    /// On another.
    There(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    Pod(Pod),
    /// A process of the node, from the node's address.
    Node,
    /// A process of the node, from its loopback address.
    NodeLoopback,
    Outside(usize),
}

/// What of a scene's Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    ClusterIp,
    /// The cluster IP, on a port the Service does not have.
    ClusterIpOtherPort,
    /// An address of the Service range that no Service has.
    UnallocatedClusterIp,
    ExternalIp,
    ExternalIpOtherPort,
    LoadBalancerIp,
    LoadBalancerIpOtherPort,
    /// The node port at the node's first address.
    NodePort,
    /// The node port at another address of the node.
    SecondNodePort,
    LocalhostNodePort,
    /// A port of the node that no Service has.
    OtherNodePort,
}

/// One sender, one target, one family, one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub sender: Sender,
    pub target: Target,
    pub family: IpFamily,
    pub protocol: Protocol,
    pub from: IpAddr,
    pub to: SocketAddr,
}

/// The addresses and the node port that belong to one scene, by its number. At most 250 scenes have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u8);

/// The port every Service in the table has, and one that none has.
pub const SERVICE_PORT: u16 = 80;
pub const OTHER_PORT: u16 = 81;
/// A node port that none has.
pub const OTHER_NODE_PORT: u16 = 32_000;

impl Place {
    pub fn cluster_ip(self, family: IpFamily) -> IpAddr {
        self.address(family, [10, 96, 1], [0xfd00, 0x96, 0x100])
    }

    pub fn unallocated(self, family: IpFamily) -> IpAddr {
        self.address(family, [10, 96, 2], [0xfd00, 0x96, 0x200])
    }

    pub fn external_ip(self, family: IpFamily) -> IpAddr {
        self.address(family, [192, 0, 2], [0xfd00, 0x192, 0])
    }

    pub fn load_balancer_ip(self, family: IpFamily) -> IpAddr {
        self.address(family, [198, 51, 100], [0xfd00, 0x198, 0])
    }

    pub fn node_port(self) -> u16 {
        31_000 + u16::from(self.0)
    }

    /// Nobody asks there.
    pub fn health_check_port(self) -> u16 {
        30_500 + u16::from(self.0)
    }

    fn address(self, family: IpFamily, [a, b, c]: [u8; 3], [first, second, last]: [u16; 3]) -> IpAddr {
        match family {
            IpFamily::V4 => Ipv4Addr::new(a, b, c, self.0).into(),
            IpFamily::V6 => Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last + u16::from(self.0)).into(),
        }
    }
}

impl Pod {
    pub fn address(self, world: &World) -> IpAddr {
        match self {
            Pod::Here(number) => world.local_pods[number],
            Pod::There(number) => world.remote_pods[number],
        }
    }

    /// The name of its node.
    pub fn node(self) -> &'static str {
        match self {
            Pod::Here(_) => "here",
            Pod::There(_) => "there",
        }
    }
}

impl Sender {
    pub fn address(self, world: &World) -> IpAddr {
        match self {
            Sender::Pod(pod) => pod.address(world),
            Sender::Node => world.node_address,
            Sender::NodeLoopback => loopback(world.family),
            Sender::Outside(number) => world.outsiders[number],
        }
    }
}

impl Target {
    /// Where that is, for a scene's Service.
    pub fn socket(self, place: Place, world: &World) -> SocketAddr {
        let family = world.family;
        let (address, port) = match self {
            Target::ClusterIp => (place.cluster_ip(family), SERVICE_PORT),
            Target::ClusterIpOtherPort => (place.cluster_ip(family), OTHER_PORT),
            Target::UnallocatedClusterIp => (place.unallocated(family), SERVICE_PORT),
            Target::ExternalIp => (place.external_ip(family), SERVICE_PORT),
            Target::ExternalIpOtherPort => (place.external_ip(family), OTHER_PORT),
            Target::LoadBalancerIp => (place.load_balancer_ip(family), SERVICE_PORT),
            Target::LoadBalancerIpOtherPort => (place.load_balancer_ip(family), OTHER_PORT),
            Target::NodePort => (world.node_address, place.node_port()),
            Target::SecondNodePort => (world.second_node_address, place.node_port()),
            Target::LocalhostNodePort => (loopback(family), place.node_port()),
            Target::OtherNodePort => (world.node_address, OTHER_NODE_PORT),
        };
        SocketAddr::new(address, port)
    }

    /// Whether the address is the node's own, so that the node answers what no Service takes.
    pub fn is_the_nodes(self) -> bool {
        matches!(self, Target::NodePort | Target::SecondNodePort | Target::LocalhostNodePort | Target::OtherNodePort)
    }
}

impl Probe {
    /// The same as the oracle's question.
    pub fn packet(&self) -> Packet {
        let source = match self.sender {
            Sender::Pod(Pod::Here(_)) => Source::LocalPod(self.from),
            Sender::Pod(Pod::There(_)) => Source::RemotePod(self.from),
            Sender::Node | Sender::NodeLoopback => Source::Node(self.from),
            Sender::Outside(_) => Source::Outside(self.from),
        };
        let port = Port::new(self.to.port()).expect("no target has port 0");
        Packet { source, destination: self.to.ip(), protocol: self.protocol, port }
    }
}

fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pod::Here(number) => write!(f, "pod {number} here"),
            Pod::There(number) => write!(f, "pod {number} there"),
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sender::Pod(pod) => pod.fmt(f),
            Sender::Node => f.write_str("the node"),
            Sender::NodeLoopback => f.write_str("the node's loopback"),
            Sender::Outside(number) => write!(f, "outsider {number}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::ClusterIp => "cluster IP",
            Target::ClusterIpOtherPort => "another port of the cluster IP",
            Target::UnallocatedClusterIp => "nobody's cluster IP",
            Target::ExternalIp => "external IP",
            Target::ExternalIpOtherPort => "another port of the external IP",
            Target::LoadBalancerIp => "load-balancer IP",
            Target::LoadBalancerIpOtherPort => "another port of the load-balancer IP",
            Target::NodePort => "node port",
            Target::SecondNodePort => "node port at the second address",
            Target::LocalhostNodePort => "node port at localhost",
            Target::OtherNodePort => "nobody's node port",
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} from {} to {}", self.protocol, self.family, self.sender, self.target)
    }
}
