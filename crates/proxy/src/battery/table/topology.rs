//! Topology: hints that keep traffic in the node's zone or on the node (KEP-2433, KEP-4444). They count if every ready
//! endpoint has them and somebody is meant for here; never in part. The node's zone is z1.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Member, Scene, draining, ready, row, unready};

/// A Service of which these are reached, by whatever way.
fn reached<const M: usize, const N: usize>(name: &'static str, members: [Member; M], pods: [Pod; N]) -> Scene {
    Scene::new(name).node_port().members(members).rows([
        row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client(pods)),
        row([OUTSIDE], [ClusterIp, NodePort], Expected::sees_the_node(pods)),
    ])
}

pub fn scenes() -> Vec<Scene> {
    let mut scenes = by_zone();
    scenes.extend(by_node());
    scenes.extend(beside_policies());
    scenes
}

fn by_zone() -> Vec<Scene> {
    let zone = |pod, zone| ready(pod).for_zones([zone]);
    vec![
        reached("zone-here", [zone(A, "z1"), zone(B, "z2"), zone(C, "z2")], [A]),
        reached("zone-elsewhere", [zone(A, "z2"), zone(C, "z1")], [C]),
        reached("zone-of-two", [ready(A).for_zones(["z1", "z2"]), zone(B, "z2"), zone(C, "z1")], [A, C]),
        reached("zone-one-unhinted", [zone(A, "z1"), ready(B), zone(C, "z2")], [A, B, C]),
        reached("zone-not-ours", [zone(A, "z2"), zone(C, "z3")], [A, C]),
        // Whoever isn't ready needs no hint, and its hint is none.
        reached("zone-unready-unhinted", [zone(A, "z1"), unready(B), zone(C, "z2")], [A]),
        reached("zone-unready-hinted", [unready(A).for_zones(["z1"]), zone(B, "z2"), zone(C, "z2")], [B, C]),
        reached("zone-all-draining", [draining(A).for_zones(["z1"]), draining(C).for_zones(["z2"])], [A, C]),
    ]
}

fn by_node() -> Vec<Scene> {
    let node = |pod, node| ready(pod).for_nodes([node]);
    vec![
        reached("node-here", [node(A, "here"), node(B, "there"), node(C, "there")], [A]),
        // A hint need not name the endpoint's own node.
        reached("node-elsewhere", [node(A, "there"), node(C, "here")], [C]),
        reached("node-not-ours", [node(A, "there"), node(C, "there")], [A, C]),
        reached("node-one-unhinted", [node(A, "here"), ready(B), node(C, "there")], [A, B, C]),
        // Nodes first; if they don't count, zones.
        reached(
            "node-before-zone",
            [node(A, "here").for_zones(["z2"]), node(B, "there").for_zones(["z1"]), node(C, "there").for_zones(["z1"])],
            [A],
        ),
        reached(
            "zone-after-node",
            [node(A, "there").for_zones(["z1"]), node(B, "there").for_zones(["z2"]), ready(C).for_zones(["z1"])],
            [A, C],
        ),
    ]
}

/// A policy Local chooses by node alone, whatever the hints say.
fn beside_policies() -> Vec<Scene> {
    let members = || [ready(A).for_zones(["z2"]), ready(C).for_zones(["z1"])];
    vec![
        Scene::new("zone-and-external-local").node_port().external_local().members(members()).rows([
            row([OUTSIDE, STRANGER], [NodePort], Expected::sees_the_client([A])),
            row([NEIGHBOUR], [NodePort, ClusterIp], Expected::sees_the_client([C])),
            row([OUTSIDE], [ClusterIp], Expected::sees_the_node([C])),
        ]),
        Scene::new("zone-and-internal-local").node_port().internal_local().members(members()).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])),
            row([OUTSIDE], [ClusterIp], Expected::sees_the_node([A])),
            row([OUTSIDE], [NodePort], Expected::sees_the_node([C])),
        ]),
    ]
}
