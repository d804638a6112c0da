//! Routes that lead off the node: to the other nodes' pods by their InternalIPs, and to the service CIDRs. What no pod has
//! of the node's own CIDRs leads nowhere: by the default route it would come back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use netns::{Links, Route};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{NetworkError, NodeNetwork, load, save};
use crate::config::Config;

/// A destination and the neighbour it is behind; nowhere without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRoute {
    pub to: IpNet,
    pub via: Option<IpAddr>,
}

impl PodRoute {
    fn on(&self, uplink: &str) -> Route {
        match self.via {
            Some(via) => Route::via(self.to, via).on(uplink),
            None => Route::unreachable(self.to),
        }
    }
}

/// The routes a node needs, given all nodes. A node without an address of a CIDR's family is left out, and so is a CIDR
/// that an earlier node (by name) claims.
pub fn pod_routes<'a>(own: &str, nodes: impl Iterator<Item = &'a Node>) -> Vec<PodRoute> {
    let mut routes: BTreeMap<IpNet, Option<IpAddr>> = BTreeMap::new();
    let mut nodes: Vec<&Node> = nodes.collect();
    nodes.sort_by_key(|node| node.name_any());
    for node in nodes {
        let addresses = internal_ips(node);
        for cidr in pod_cidrs(node) {
            let via = addresses.iter().find(|address| address.is_ipv4() == cidr.addr().is_ipv4());
            if node.name_any() == own {
                routes.entry(cidr).or_insert(None);
            } else if via.is_some() {
                routes.entry(cidr).or_insert(via.copied());
            }
        }
    }
    routes.into_iter().map(|(to, via)| PodRoute { to, via }).collect()
}

/// A node's pod CIDRs, primary family first.
pub fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.clone().filter(|all| !all.is_empty());
    let all = all.unwrap_or_else(|| spec.pod_cidr.iter().cloned().collect());
    all.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|cidr| cidr.trunc()).collect()
}

fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
}

/// Keeps the routes as the Nodes say, until stopped.
pub async fn watch_nodes(client: Client, config: Config, network: Arc<NodeNetwork>, stop: CancellationToken) {
    const RETRY: Duration = Duration::from_secs(1);
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut listed = BTreeMap::new();
    let mut synced = false;
    let mut events =
        watcher(Api::<Node>::all(client), watcher::Config::default()).backoff(runtime::backoff::watching()).boxed();
    let mut again = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY), if again => None,
            event = events.next() => match event {
                Some(event) => Some(event),
                None => return,
            },
        };
        match event {
            None => {}
            Some(Ok(watcher::Event::Init)) => listed = BTreeMap::new(),
            Some(Ok(watcher::Event::InitApply(node))) => drop(listed.insert(node.name_any(), node)),
            Some(Ok(watcher::Event::InitDone)) => (nodes, synced) = (std::mem::take(&mut listed), true),
            Some(Ok(watcher::Event::Apply(node))) => drop(nodes.insert(node.name_any(), node)),
            Some(Ok(watcher::Event::Delete(node))) => drop(nodes.remove(&node.name_any())),
            Some(Err(error)) => {
                tracing::warn!(%error, "watching Nodes; the routes stay as they are");
                continue;
            }
        }
        if synced {
            let wanted = pod_routes(&config.node_name, nodes.values());
            let applied = apply(&network, &config, wanted).await;
            again = applied.is_err();
            if let Err(error) = applied {
                tracing::warn!(%error, "cannot set the routes to other nodes");
            }
        }
    }
}

/// Sets what is wanted and takes away what an earlier call set and nobody wants now. What we set is on disk before the
/// kernel has it, so that none is forgotten.
async fn apply(network: &NodeNetwork, config: &Config, mut wanted: Vec<PodRoute>) -> Result<(), NetworkError> {
    for cidr in &config.service_cidrs {
        let via = config.gateways.iter().find(|gateway| gateway.is_ipv4() == cidr.addr().is_ipv4());
        wanted.extend(via.map(|via| PodRoute { to: *cidr, via: Some(*via) }));
    }
    let path = config.state_dir.join("network").join("routes.json");
    let before: Vec<PodRoute> = load(&path);
    let links = Links::of(network.namespace())?;
    let present = links.routes().await?;
    let missing = |route: &PodRoute| !present.iter().any(|(to, _)| *to == route.to);
    if before == wanted && !wanted.iter().any(missing) {
        return Ok(());
    }
    let mut all = before.clone();
    all.extend(wanted.iter().filter(|route| !before.contains(route)).cloned());
    save(&path, &all)?;
    for route in before.iter().filter(|known| !wanted.iter().any(|route| route.to == known.to)) {
        links.delete_route(&route.on(&config.uplink)).await?;
    }
    for route in &wanted {
        links.add_route(&route.on(&config.uplink)).await?;
    }
    save(&path, &wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use netns::{LinkName, NetNs};
    use serde_json::json;

    fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> Node {
        let addresses: Vec<_> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"podCIDRs": cidrs},
            "status": {"addresses": addresses}}))
        .unwrap()
    }

    fn route(to: &str, via: &str) -> PodRoute {
        PodRoute { to: to.parse().unwrap(), via: Some(via.parse().unwrap()) }
    }

    #[test]
    fn each_other_nodes_cidr_goes_by_the_address_of_its_family() {
        let nodes = [
            node("n1", &["172.30.0.11"], &["10.244.0.0/24"]),
            node("n2", &["172.30.0.12", "fd30::12"], &["10.244.1.0/24", "fd00:1::/64"]),
            node("n3", &["172.30.0.13"], &["10.244.2.0/24", "fd00:2::/64"]),
            node("n4", &["172.30.0.14"], &["10.244.1.0/24"]),
            node("n5", &[], &["10.244.5.0/24"]),
        ];
        let expected = [
            PodRoute { to: "10.244.0.0/24".parse().unwrap(), via: None },
            route("10.244.1.0/24", "172.30.0.12"),
            route("10.244.2.0/24", "172.30.0.13"),
            route("fd00:1::/64", "fd30::12"),
        ];
        assert_eq!(pod_routes("n1", nodes.iter()), expected);
    }

    #[tokio::test]
    async fn routes_come_and_go_on_the_real_kernel() {
        let (dir, node_ns, other) = (TempDir::new(), NetNs::new().unwrap(), NetNs::new().unwrap());
        let links = Links::of(&node_ns).unwrap();
        let uplink = LinkName::new("eth0").unwrap();
        links.add_veth(&uplink, &LinkName::new("peer").unwrap(), &other).await.unwrap();
        links.add_address(&uplink, "172.30.0.11/24".parse().unwrap()).await.unwrap();
        links.up(&uplink).await.unwrap();
        Links::of(&other).unwrap().up(&LinkName::new("peer").unwrap()).await.unwrap();
        let network = NodeNetwork::in_namespace(node_ns, dir.path()).unwrap();
        let mut config = Config::new("n1", vec![], dir.path().to_owned());
        config.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
        config.gateways = vec!["172.30.0.2".parse().unwrap()];
        let has = async |to: &str| {
            let to: IpNet = to.parse().unwrap();
            links.routes().await.unwrap().iter().any(|(known, _)| *known == to)
        };
        apply(&network, &config, vec![route("10.244.1.0/24", "172.30.0.12")]).await.unwrap();
        assert!(has("10.244.1.0/24").await && has("10.96.0.0/16").await);
        apply(&network, &config, vec![route("10.244.2.0/24", "172.30.0.12")]).await.unwrap();
        assert!(!has("10.244.1.0/24").await && has("10.244.2.0/24").await);
        links
            .delete_route(&Route::via("10.244.2.0/24".parse().unwrap(), "172.30.0.12".parse().unwrap()))
            .await
            .unwrap();
        apply(&network, &config, vec![route("10.244.2.0/24", "172.30.0.12")]).await.unwrap();
        assert!(has("10.244.2.0/24").await, "a route that somebody took away comes back");
    }
}
