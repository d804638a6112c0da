//! The fabric: a network namespace with one bridge that joins the host and the nodes.
//!
//! The bridge lies outside the host's namespace so that neither the host's firewall nor br_netfilter sees what nodes
//! say to each other. The namespace has no name: it lives while the supervisor or a node holds it, and takes every link
//! with it.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netns::{LinkName, Links, NetNs, Route, sysctl};

use super::network::Plan;

/// The fabric and the host's link into it.
pub struct Fabric {
    namespace: NetNs,
    inside: Links,
    host: Links,
    host_link: LinkName,
    plan: Plan,
}

const HOST_PORT: &str = "host";

impl Fabric {
    /// Builds the namespace, its bridge and the host's link.
    pub async fn build(plan: &Plan) -> Result<Self> {
        let host_namespace = NetNs::current()?;
        let host = Links::of(&host_namespace)?;
        let namespace = NetNs::new()?;
        let inside = Links::of(&namespace)?;
        let bridge = bridge()?;
        inside.loopback_up().await?;
        inside.add_bridge(&bridge).await?;
        // It would have the lowest address of its ports, another one whenever a node is made anew.
        inside.set_hardware_address(&bridge, hardware_address(plan.fabric_address())).await?;
        for address in plan.fabric_addresses() {
            inside.add_address(&bridge, plan.in_fabric(address)?).await?;
        }
        inside.up(&bridge).await?;
        // A pod's address that no node has is nobody's, and not outside.
        for pods in plan.pods() {
            inside.add_route(&Route::unreachable(pods)).await?;
        }
        sysctl::set(&namespace, "net.ipv4.ip_forward", "0")?;
        sysctl::set(&namespace, "net.ipv4.conf.fabric.send_redirects", "0")?;

        let port = LinkName::new(HOST_PORT)?;
        let host_link = join_host(&inside, &port, &host, &host_namespace).await?;
        inside.enslave(&port, &bridge).await?;
        inside.up(&port).await?;
        for address in plan.hosts() {
            host.add_address(&host_link, plan.in_fabric(address)?).await?;
        }
        host.up(&host_link).await?;
        let fabric = Fabric { namespace, inside, host, host_link, plan: plan.clone() };
        fabric.spare_the_bridge()?;
        Ok(fabric)
    }

    /// Keeps br_netfilter from running the fabric's rules on what the bridge takes in, before it's known where that goes:
    /// a packet handed to a transparent socket then would be taken from it again. The module may be loaded at any time,
    /// and is switched on in every namespace when it is.
    pub fn spare_the_bridge(&self) -> Result<()> {
        for name in ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"] {
            if sysctl::get(&self.namespace, name).is_ok_and(|value| value != "0") {
                sysctl::set(&self.namespace, name, "0")?;
            }
        }
        Ok(())
    }

    /// The fabric that a node of an earlier supervisor holds, if it and the host's link are still whole.
    pub async fn take_over(plan: &Plan, holder: i32, host_link: &str) -> Result<Option<Self>> {
        let Some(namespace) = held(holder)? else { return Ok(None) };
        let (inside, host) = (Links::of(&namespace)?, Links::of(&NetNs::current()?)?);
        let host_link = LinkName::new(host_link)?;
        let whole = inside.exists(&bridge()?).await?
            && inside.exists(&LinkName::new(HOST_PORT)?).await?
            && host.exists(&host_link).await?;
        Ok(whole.then(|| Fabric { namespace, inside, host, host_link, plan: plan.clone() }))
    }

    /// Where another process can open the namespace for as long as we hold it.
    pub fn descriptor(&self) -> PathBuf {
        let number = self.namespace.as_fd().as_raw_fd();
        format!("/proc/{}/fd/{number}", std::process::id()).into()
    }

    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    pub fn host_link(&self) -> &LinkName {
        &self.host_link
    }

    /// Plugs a node in: `eth0` with its address, the way to the host and to the fabric. The node's agent does the rest.
    pub async fn attach(&self, index: u32, node: &NetNs) -> Result<()> {
        let (port, eth0) = (LinkName::new(&format!("node{index}"))?, LinkName::new("eth0")?);
        let links = Links::of(node)?;
        // The kernel takes the link of a node that has just ended away in its own time.
        self.inside.delete(&port).await?;
        self.inside.add_veth(&port, &eth0, node).await.context("cannot join the node to the fabric")?;
        self.inside.enslave(&port, &bridge()?).await?;
        self.inside.up(&port).await?;
        links.loopback_up().await?;
        links.set_hardware_address(&eth0, hardware_address(self.plan.node_v4(index))).await?;
        for address in self.plan.node(index) {
            links.add_address(&eth0, self.plan.in_fabric(address)?).await?;
        }
        links.up(&eth0).await?;
        for gateway in self.plan.way_out() {
            let everything =
                if gateway.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
            links.add_route(&Route::via(everything, gateway)).await?;
        }
        // What the host sends to a ClusterIP leaves by the link it came in on. A redirect would lead the host past the
        // node's proxy, and uses up the allowance of ICMP errors (icmp(7), icmp_ratelimit) that rejections need.
        sysctl::set(node, "net.ipv4.conf.eth0.send_redirects", "0")?;
        Ok(())
    }

    /// Sends what the host and the fabric say to ClusterIPs by way of a node, whose proxy translates it.
    pub async fn route_services(&self, index: u32) -> Result<()> {
        for services in self.plan.services() {
            self.route(services, index).await?;
        }
        Ok(())
    }

    /// Sends what the host and the fabric say to a node's pods to that node.
    pub async fn route_pods(&self, pods: IpNet, index: u32) -> Result<()> {
        self.route(pods, index).await
    }

    async fn route(&self, to: IpNet, index: u32) -> Result<()> {
        let gateway = self.plan.node(index).into_iter().find(|node| node.is_ipv4() == to.addr().is_ipv4());
        let gateway = gateway.with_context(|| format!("node {index} has no address of the family of {to}"))?;
        self.host.add_route(&Route::via(to, gateway).on(self.host_link.as_str())).await?;
        self.inside.add_route(&Route::via(to, gateway)).await?;
        Ok(())
    }

    /// Takes the host's link away, and with it the routes.
    pub async fn tear_down(self) -> Result<()> {
        Ok(self.host.delete(&self.host_link).await?)
    }
}

/// Removes a link that a crash may have left on the host.
pub async fn remove_host_link(name: &str) -> Result<()> {
    let host = Links::of(&NetNs::current()?)?;
    Ok(host.delete(&LinkName::new(name)?).await?)
}

/// The same for the same address, also when its link was made anew: others would send to the old one for half a minute.
/// Locally administered (IEEE 802, the second bit), then the last four bytes of the address.
fn hardware_address(address: IpAddr) -> [u8; 6] {
    let [.., a, b, c, d] = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    [0x02, 0x50, a, b, c, d]
}

/// The network namespace among a process's descriptors.
fn held(holder: i32) -> Result<Option<NetNs>> {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{holder}/fd")) else { return Ok(None) };
    let paths = descriptors.flatten().map(|entry| entry.path());
    let is_network = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"net:["))
    };
    Ok(paths.into_iter().find(is_network).map(|path| NetNs::open(&path)).transpose()?)
}

fn bridge() -> Result<LinkName> {
    Ok(LinkName::new("fabric")?)
}

/// The host's end is `portolan0`, or has the next number when another system has that one.
async fn join_host(inside: &Links, port: &LinkName, host: &Links, namespace: &NetNs) -> Result<LinkName> {
    loop {
        let taken = host.names().await?;
        let free = (0..).map(|n| format!("portolan{n}")).find(|name| !taken.contains(name));
        let name = LinkName::new(&free.unwrap_or_default())?;
        match inside.add_veth(port, &name, namespace).await {
            Ok(()) => return Ok(name),
            // Another system that starts at the same time was quicker.
            Err(error) if error.exists() => {}
            Err(error) => return Err(error).context("cannot join the host to the fabric"),
        }
    }
}
