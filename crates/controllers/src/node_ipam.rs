//! Gives each node its part of the cluster's pod addresses. Not responsible for routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use runtime::{Key, Next, Note, Objects, Reconcile, Recorder, WriteError};
use serde_json::{Value, json};

use crate::Config;
use crate::cluster::{Cluster, mark_self};

pub fn start(cluster: &mut Cluster) {
    let config = &cluster.config;
    if config.cluster_cidr_v4.is_none() && config.cluster_cidr_v6.is_none() {
        return;
    }
    let queue = cluster.queue();
    mark_self(&cluster.nodes, &queue);
    let ranges =
        Ranges { nodes: cluster.nodes.clone(), recorder: cluster.recorder.clone(), config: cluster.config.clone() };
    // One at a time: each choice depends on all earlier ones.
    cluster.drive("node-ipam", ranges, queue, 1);
}

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It has its ranges, or is leaving.
    Keep,
    Assign(Vec<IpNet>),
    /// A cluster range has no part left.
    Exhausted(IpNet),
}

/// Plans for one node. A node's ranges never change once set.
pub fn plan<'a>(node: &Node, all: impl Iterator<Item = &'a Node>, config: &Config) -> Plan {
    if node.metadata.deletion_timestamp.is_some() || !ranges(node).is_empty() {
        return Plan::Keep;
    }
    let taken: BTreeSet<IpNet> = all.flat_map(ranges).collect();
    let v4 = config.cluster_cidr_v4.map(|net| (IpNet::V4(net), config.node_mask_v4));
    let v6 = config.cluster_cidr_v6.map(|net| (IpNet::V6(net), config.node_mask_v6));
    let mut parts = Vec::new();
    for (net, mask) in v4.into_iter().chain(v6) {
        let overlaps = |part: &IpNet| taken.iter().any(|taken| taken.contains(part) || part.contains(taken));
        match net.subnets(mask).ok().and_then(|mut parts| parts.find(|part| !overlaps(part))) {
            Some(part) => parts.push(part),
            None => return Plan::Exhausted(net),
        }
    }
    Plan::Assign(parts)
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let many = spec.pod_cidrs.as_deref().unwrap_or_default().iter();
    many.chain(&spec.pod_cidr).filter_map(|range| range.parse().ok()).collect()
}

fn patch(node: &Node, parts: &[IpNet]) -> Value {
    let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    json!({
        // No resourceVersion: heartbeats and taints must not put this off, and nobody else writes these fields.
        "metadata": { "uid": node.metadata.uid },
        "spec": { "podCIDR": texts.first(), "podCIDRs": texts },
    })
}

struct Ranges {
    nodes: Objects<Node>,
    recorder: Recorder,
    config: Arc<Config>,
}

impl Reconcile for Ranges {
    type Key = Key;
    type Error = WriteError;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        let Some(node) = self.nodes.cache().get(key) else { return Ok(Next::Wait) };
        let all = self.nodes.cache().all();
        match plan(&node, all.iter().map(|node| &**node), &self.config) {
            Plan::Keep => {}
            Plan::Assign(parts) => {
                self.nodes.patch(key, &patch(&node, &parts)).await?;
            }
            Plan::Exhausted(net) => {
                let message = format!("Node {} has no pod addresses: {net} has no part left", key.name);
                self.recorder.publish(Note::warning(&*node, "CIDRNotAvailable", message));
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ranges: &[&str]) -> Node {
        let value = json!({ "metadata": { "name": name }, "spec": { "podCIDRs": ranges, "podCIDR": ranges.first() } });
        serde_json::from_value(value).unwrap()
    }

    fn config() -> Config {
        Config {
            cluster_cidr_v4: "10.244.0.0/23".parse().ok(),
            cluster_cidr_v6: "fd00:10::/48".parse().ok(),
            ..Config::default()
        }
    }

    #[test]
    fn gives_the_first_free_parts_once() {
        let (new, old) = (node("new", &[]), node("old", &["10.244.0.0/24", "fd00:10::/64"]));
        let wanted = ["10.244.1.0/24", "fd00:10:0:1::/64"].map(|net| net.parse().unwrap()).to_vec();
        assert_eq!(plan(&new, [&new, &old].into_iter(), &config()), Plan::Assign(wanted.clone()));
        assert_eq!(patch(&new, &wanted)["spec"]["podCIDR"], "10.244.1.0/24");
        assert_eq!(plan(&old, [&new, &old].into_iter(), &config()), Plan::Keep);
    }

    #[test]
    fn a_full_range_is_told() {
        let (new, wide) = (node("new", &[]), node("wide", &["10.244.0.0/23"]));
        let full = "10.244.0.0/23".parse().unwrap();
        assert_eq!(plan(&new, [&new, &wide].into_iter(), &config()), Plan::Exhausted(full));
    }
}
