//! A pod's link to its node: a veth pair, its addresses, its routes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnet::IpNet;
use netns::{LinkName, Links, NetNs, Route, sysctl};
use pod_runtime::{PodNetwork, RuntimeError, SandboxId, SandboxSpec};
use tokio::sync::{Mutex, watch};

use super::host_ports::HostPorts;
use super::{Ipam, NetworkError, gateway, load, save};

/// The link inside a pod.
const POD_LINK: &str = "eth0";
/// How the node's ends begin; the rest is made from the sandbox.
const PREFIX: &str = "veth";

/// Attaches pods to the node whose namespace it was opened in. Made before the runtime that calls it; waits with its
/// first pod until it is told the node's pod CIDRs.
pub struct NodeNetwork {
    node: NetNs,
    leases: PathBuf,
    ipam: Mutex<Ipam>,
    host_ports: Mutex<HostPorts>,
    cidrs: watch::Sender<Vec<IpNet>>,
}

impl NodeNetwork {
    /// For the namespace of the calling process.
    pub fn open(state_dir: &Path) -> Result<Self, NetworkError> {
        Self::in_namespace(NetNs::current()?, state_dir)
    }

    /// For a namespace that is the node's.
    pub fn in_namespace(node: NetNs, state_dir: &Path) -> Result<Self, NetworkError> {
        let dir = state_dir.join("network");
        std::fs::create_dir_all(&dir).map_err(|source| NetworkError::State { path: dir.clone(), source })?;
        let leases = dir.join("leases.json");
        let ipam = Mutex::new(load(&leases));
        let host_ports = Mutex::new(HostPorts::open(&dir.join("host-ports.json")));
        Ok(NodeNetwork { node, leases, ipam, host_ports, cidrs: watch::Sender::new(Vec::new()) })
    }

    pub fn namespace(&self) -> &NetNs {
        &self.node
    }

    /// Makes a router of the node, and lets pods be attached.
    pub fn set_cidrs(&self, cidrs: Vec<IpNet>) -> Result<(), NetworkError> {
        // Loose or strict reverse-path checks would drop what comes back from a translated connection by another link.
        let settings = [
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
        ];
        for (name, value) in settings {
            sysctl::set(&self.node, name, value)?;
        }
        sysctl::forward(&self.node, false)?;
        if cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) {
            sysctl::forward(&self.node, true)?;
        }
        self.cidrs.send_replace(cidrs);
        Ok(())
    }

    /// Gives back what belongs to no sandbox any more: addresses, and links that an earlier agent left.
    pub async fn retain(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<(), NetworkError> {
        let mut ipam = self.ipam.lock().await;
        let gone: Vec<SandboxId> = ipam.holders().difference(sandboxes).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let links = Links::of(&self.node)?;
        for sandbox in gone {
            self.host_ports.lock().await.remove(&self.node, &sandbox)?;
            links.delete(&node_link(&sandbox)?).await?;
            ipam.release(&sandbox);
        }
        save(&self.leases, &*ipam)
    }

    async fn lease(&self, sandbox: &SandboxId) -> Result<(Vec<IpNet>, Vec<IpAddr>), NetworkError> {
        let mut cidrs = self.cidrs.subscribe();
        let cidrs = cidrs.wait_for(|cidrs| !cidrs.is_empty()).await.map_err(|_| NetworkError::NoCidr)?.clone();
        let mut ipam = self.ipam.lock().await;
        let before = ipam.of(sandbox).map(<[IpAddr]>::to_vec);
        let addresses = ipam.lease(sandbox, &cidrs)?;
        if before.as_ref() != Some(&addresses) {
            save(&self.leases, &*ipam)?;
        }
        Ok((cidrs, addresses))
    }

    async fn wire(&self, sandbox: &SandboxId, namespace: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        let (cidrs, addresses) = self.lease(sandbox).await?;
        let pod = NetNs::open(namespace)?;
        let (outside, inside) = (Links::of(&self.node)?, Links::of(&pod)?);
        let (near, far) = (node_link(sandbox)?, LinkName::new(POD_LINK)?);
        if !(outside.exists(&near).await? && inside.exists(&far).await?) {
            outside.delete(&near).await?;
            outside.add_veth(&near, &far, &pod).await?;
        }
        self.quiet(&near)?;
        if cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) {
            usable_at_once(&self.node, &near)?;
            usable_at_once(&pod, &far)?;
        }
        inside.loopback_up().await?;
        outside.up(&near).await?;
        inside.up(&far).await?;
        for (cidr, address) in cidrs.iter().zip(&addresses) {
            let gateway = gateway(*cidr);
            outside.add_address(&near, IpNet::from(gateway)).await?;
            inside.add_address(&far, IpNet::from(*address)).await?;
            outside.add_route(&Route::direct(IpNet::from(*address), near.as_str())).await?;
            inside.add_route(&Route::direct(IpNet::from(gateway), POD_LINK)).await?;
            inside.add_route(&Route::via(anywhere(gateway), gateway).on(POD_LINK)).await?;
        }
        Ok(addresses)
    }

    /// Per-link settings: no reverse-path filter, no redirects, own addresses accepted as a source (a pod that reaches
    /// itself through a Service comes back as the node).
    fn quiet(&self, near: &LinkName) -> Result<(), NetworkError> {
        for (name, value) in [("rp_filter", "0"), ("send_redirects", "0"), ("accept_local", "1")] {
            sysctl::set(&self.node, &format!("net/ipv4/conf/{near}/{name}"), value)?;
        }
        Ok(())
    }

    async fn unwire(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        self.host_ports.lock().await.remove(&self.node, sandbox)?;
        Links::of(&self.node)?.delete(&node_link(sandbox)?).await?;
        let mut ipam = self.ipam.lock().await;
        if ipam.release(sandbox) {
            save(&self.leases, &*ipam)?;
        }
        Ok(())
    }
}

#[async_trait]
impl PodNetwork for NodeNetwork {
    async fn attach(&self, sandbox: &SandboxSpec, namespace: &Path) -> Result<Vec<IpAddr>, RuntimeError> {
        let attached = async {
            let addresses = self.wire(&sandbox.id, namespace).await?;
            self.host_ports.lock().await.add(&self.node, sandbox, &addresses)?;
            Ok(addresses)
        };
        attached.await.map_err(|error| failed("attach the pod to the network", error))
    }

    async fn detach(&self, sandbox: &SandboxId) -> Result<(), RuntimeError> {
        self.unwire(sandbox).await.map_err(|error| failed("detach the pod from the network", error))
    }
}

fn failed(step: &'static str, error: NetworkError) -> RuntimeError {
    RuntimeError::Other { step, source: Box::new(error) }
}

fn anywhere(like: IpAddr) -> IpNet {
    let address = if like.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // A prefix of no bits fits any address.
    IpNet::new_assert(address, 0)
}

/// `veth` and eleven hexadecimal digits (FNV-1a, 44 bits) of the sandbox's id: fifteen characters, as many as fit.
fn node_link(sandbox: &SandboxId) -> Result<LinkName, netns::Error> {
    let hash = sandbox
        .0
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    LinkName::new(&format!("{PREFIX}{:011x}", (hash ^ (hash >> 44)) & 0xfff_ffff_ffff))
}

/// A new link's own IPv6 address is not looked for at its neighbours: there is one, and the kernel gave it another. Until that
/// has been done, for two seconds, a node asks nobody where a packet that it passes on has to go, and after three it says
/// that nobody is there (RFC 4862 section 5.4, `ndisc_send_ns`).
fn usable_at_once(namespace: &NetNs, link: &LinkName) -> Result<(), NetworkError> {
    Ok(sysctl::set(namespace, &format!("net/ipv6/conf/{link}/accept_dad"), "0")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use pod_runtime::{HostPort, PortProtocol, SandboxNetwork};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn spec(id: &str) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId(id.into()),
            namespace: "default".into(),
            name: id.into(),
            uid: id.into(),
            hostname: id.into(),
            network: SandboxNetwork::Pod,
            of_node: Default::default(),
            host_ports: Vec::new(),
            sysctls: Default::default(),
            cpu_shares: None,
            annotations: Default::default(),
        }
    }

    struct World {
        network: NodeNetwork,
        dir: TempDir,
    }

    impl World {
        async fn new(cidrs: &[&str]) -> Self {
            let dir = TempDir::new();
            let network = NodeNetwork::in_namespace(NetNs::new().unwrap(), dir.path()).unwrap();
            Links::of(&network.node).unwrap().loopback_up().await.unwrap();
            network.set_cidrs(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()).unwrap();
            World { network, dir }
        }

        /// A pod's namespace, held and pinned by a path.
        async fn pod(&self, id: &str) -> (NetNs, Vec<IpAddr>) {
            let pod = NetNs::new().unwrap();
            let addresses = self.network.attach(&spec(id), &path(&pod)).await.unwrap();
            (pod, addresses)
        }
    }

    fn path(namespace: &NetNs) -> PathBuf {
        use std::os::fd::{AsFd, AsRawFd};
        PathBuf::from(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()))
    }

    /// Sends a line from one namespace to a listener in another; gives the client's address as the server saw it.
    fn talk(server: &NetNs, at: IpAddr, client: &NetNs) -> IpAddr {
        let listener = server.run(|| TcpListener::bind((at, 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        let mut stream = client.run(|| TcpStream::connect(target).unwrap()).unwrap();
        stream.write_all(b"hello").unwrap();
        drop(stream);
        let (mut accepted, from) = listener.accept().unwrap();
        let mut text = String::new();
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        from.ip()
    }

    #[tokio::test]
    async fn pods_reach_each_other_and_the_node_in_both_families() {
        let world = World::new(&["10.244.7.0/24", "fd00:7::/64"]).await;
        let (a, from) = world.pod("a").await;
        let (b, to) = world.pod("b").await;
        for family in 0..2 {
            assert_eq!(talk(&b, to[family], &a), from[family], "pod to pod, source kept");
            talk(&a, from[family], &world.network.node);
            let gateway = gateway(["10.244.7.0/24", "fd00:7::/64"][family].parse().unwrap());
            assert_eq!(talk(&world.network.node, gateway, &b), to[family], "pod to node");
        }
        let forwarding = sysctl::get(&world.network.node, "net.ipv4.ip_forward").unwrap();
        assert_eq!(forwarding, "1");
        let near = node_link(&SandboxId("a".into())).unwrap();
        for (namespace, link) in [(&world.network.node, near.as_str()), (&a, POD_LINK)] {
            let looks = sysctl::get(namespace, &format!("net/ipv6/conf/{link}/accept_dad")).unwrap();
            assert_eq!(looks, "0", "{link} is usable at once");
        }
    }

    #[tokio::test]
    async fn attaching_again_keeps_the_address_and_the_connection() {
        let world = World::new(&["10.244.8.0/24"]).await;
        let (pod, first) = world.pod("a").await;
        let again = world.network.attach(&spec("a"), &path(&pod)).await.unwrap();
        assert_eq!(first, again);
        talk(&pod, first[0], &world.network.node);
        let restarted = NodeNetwork::in_namespace(world.network.node.clone(), world.dir.path()).unwrap();
        restarted.set_cidrs(vec!["10.244.8.0/24".parse().unwrap()]).unwrap();
        assert_eq!(restarted.attach(&spec("a"), &path(&pod)).await.unwrap(), first);
        let other = NetNs::new().unwrap();
        assert_ne!(restarted.attach(&spec("b"), &path(&other)).await.unwrap(), first);
    }

    #[tokio::test]
    async fn detaching_leaves_neither_link_nor_route_nor_lease() {
        let world = World::new(&["10.244.9.0/24"]).await;
        let (_pod, addresses) = world.pod("a").await;
        let links = Links::of(&world.network.node).unwrap();
        let route = IpNet::from(addresses[0]);
        assert!(links.routes().await.unwrap().iter().any(|(to, _)| *to == route));
        world.network.detach(&SandboxId("a".into())).await.unwrap();
        world.network.detach(&SandboxId("a".into())).await.unwrap();
        assert!(!links.routes().await.unwrap().iter().any(|(to, _)| *to == route));
        assert!(!links.names().await.unwrap().iter().any(|name| name.starts_with(PREFIX)));
        assert!(world.network.ipam.lock().await.holders().is_empty());
        let (_kept, _) = world.pod("b").await;
        let (_gone, _) = world.pod("c").await;
        world.network.retain(&[SandboxId("b".into())].into()).await.unwrap();
        let names = links.names().await.unwrap();
        assert_eq!(names.iter().filter(|name| name.starts_with(PREFIX)).count(), 1);
    }

    #[tokio::test]
    async fn a_port_of_the_node_leads_to_its_pod_until_that_is_detached() {
        let world = World::new(&["10.244.6.0/24", "fd00:6::/64"]).await;
        let (client, _) = world.pod("client").await;
        let server = NetNs::new().unwrap();
        let port = HostPort { protocol: PortProtocol::Tcp, host_ip: None, host_port: 8080, container_port: 80 };
        let wanted = SandboxSpec { host_ports: vec![port], ..spec("server") };
        let addresses = world.network.attach(&wanted, &path(&server)).await.unwrap();
        let nodes: Vec<IpAddr> = ["10.244.6.0/24", "fd00:6::/64"].map(|cidr| gateway(cidr.parse().unwrap())).to_vec();
        for (node, own) in nodes.iter().zip(&addresses) {
            let listener = server.run(|| TcpListener::bind((*own, 80)).unwrap()).unwrap();
            for (who, from) in [(&client, "a pod"), (&world.network.node, "the node"), (&server, "the pod itself")] {
                let mut stream = who.run(|| TcpStream::connect((*node, 8080))).unwrap().expect(from);
                stream.write_all(from.as_bytes()).unwrap();
                drop(stream);
                let mut text = String::new();
                listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
                assert_eq!(text, from);
            }
        }
        // Another agent takes over and still knows what to undo.
        let restarted = NodeNetwork::in_namespace(world.network.node.clone(), world.dir.path()).unwrap();
        restarted.detach(&SandboxId("server".into())).await.unwrap();
        assert!(client.run(|| TcpStream::connect((nodes[0], 8080))).unwrap().is_err());
        let tables = world.network.node.run(|| nft::Kernel::open().unwrap().tables().unwrap()).unwrap();
        assert!(tables.is_empty(), "{tables:?}");
    }

    #[test]
    fn link_names_fit_and_differ() {
        let names: BTreeSet<_> = (0..1000).map(|n| node_link(&SandboxId(format!("uid-{n}"))).unwrap()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.as_str().len() == 15));
    }
}
