//! The fabric: a network namespace with one bridge that joins the host and the nodes.
//!
//! The bridge lies outside the host's namespace so that neither the host's firewall nor br_netfilter sees what nodes
//! say to each other. The namespace has no name: it lives while the supervisor holds it, and takes every link with it.

use anyhow::{Context, Result};
use ipnet::IpNet;
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
    /// Builds the namespace, its bridge and the host's link; checks first that the plan's networks are free.
    pub async fn build(plan: &Plan) -> Result<Self> {
        let host_namespace = NetNs::current()?;
        let host = Links::of(&host_namespace)?;
        plan.check_host(&host).await?;
        let namespace = NetNs::new()?;
        let inside = Links::of(&namespace)?;
        let bridge = bridge()?;
        inside.loopback_up().await?;
        inside.add_bridge(&bridge).await?;
        inside.add_address(&bridge, plan.in_fabric(plan.fabric_address())?).await?;
        inside.up(&bridge).await?;
        sysctl::set(&namespace, "net.ipv4.ip_forward", "0")?;

        let host_link = free_name(&host).await?;
        let port = LinkName::new(HOST_PORT)?;
        inside.add_veth(&port, &host_link, &host_namespace).await.context("cannot join the host to the fabric")?;
        inside.enslave(&port, &bridge).await?;
        inside.up(&port).await?;
        host.add_address(&host_link, plan.in_fabric(plan.host())?).await?;
        host.up(&host_link).await?;
        Ok(Fabric { namespace, inside, host, host_link, plan: plan.clone() })
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
        self.inside.add_veth(&port, &eth0, node).await.context("cannot join the node to the fabric")?;
        self.inside.enslave(&port, &bridge()?).await?;
        self.inside.up(&port).await?;
        links.loopback_up().await?;
        links.add_address(&eth0, self.plan.in_fabric(self.plan.node(index))?).await?;
        links.up(&eth0).await?;
        // What the host sends to a ClusterIP leaves by the link it came in on. A redirect would lead the host past the
        // node's proxy, and uses up the allowance of ICMP errors (icmp(7), icmp_ratelimit) that rejections need.
        sysctl::set(node, "net.ipv4.conf.eth0.send_redirects", "0")?;
        Ok(())
    }

    /// Sends what the host and the fabric say to ClusterIPs by way of a node, whose proxy translates it.
    pub async fn route_services(&self, index: u32) -> Result<()> {
        self.route(self.plan.services.into(), index).await
    }

    /// Sends what the host and the fabric say to a node's pods to that node.
    pub async fn route_pods(&self, pods: IpNet, index: u32) -> Result<()> {
        self.route(pods, index).await
    }

    async fn route(&self, to: IpNet, index: u32) -> Result<()> {
        let gateway = self.plan.node(index);
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

fn bridge() -> Result<LinkName> {
    Ok(LinkName::new("fabric")?)
}

/// `portolan0`, or the next number when another system has it.
async fn free_name(host: &Links) -> Result<LinkName> {
    let taken = host.names().await?;
    let free = (0..).map(|n| format!("portolan{n}")).find(|name| !taken.contains(name));
    Ok(LinkName::new(&free.unwrap_or_default())?)
}
