//! Readiness: who counts as an endpoint, and who stands in when nobody is ready (KEP-1669).

use super::cast::*;
use super::expected::Expected;
use super::scene::{Member, Scene, draining, ending, ready, row, serving, unready, unsaid};

pub fn scenes() -> Vec<Scene> {
    let mut scenes = everywhere_the_same();
    scenes.extend(by_policy());
    scenes
}

/// A Service of which these are reached, at its cluster IP and its node port.
fn reached<const N: usize>(name: &'static str, members: [Member; 3], pods: [Pod; N]) -> Scene {
    Scene::new(name).node_port().members(members).rows([
        row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client(pods)),
        row([OUTSIDE], [ClusterIp, NodePort], Expected::sees_the_node(pods)),
        row([NODE], [NodePort], Expected::sees_the_node(pods)),
    ])
}

/// A Service that has nobody.
fn nobody(name: &'static str, members: [Member; 3]) -> Scene {
    Scene::new(name).node_port().members(members).rows([row(
        [NEIGHBOUR, NODE, OUTSIDE],
        [ClusterIp, NodePort],
        Expected::Rejected,
    )])
}

fn everywhere_the_same() -> Vec<Scene> {
    vec![
        reached("one-unready", [ready(A), unready(B), ready(C)], [A, C]),
        reached("unsaid-is-ready", [unsaid(A), unsaid(B), unready(C)], [A, B]),
        reached("draining-makes-way", [ready(A), draining(B), draining(C)], [A]),
        reached("draining-stands-in", [draining(A), unready(B), draining(C)], [A, C]),
        reached("ending-does-not", [draining(A), ending(B), ending(C)], [A]),
        reached("serving-alone-does-not", [ready(A), serving(B), serving(C)], [A]),
        nobody("all-unready", [unready(A), unready(B), unready(C)]),
        nobody("all-ending", [ending(A), ending(B), ending(C)]),
        nobody("all-serving", [serving(A), serving(B), serving(C)]),
        nobody("none-left", [unready(A), ending(B), serving(C)]),
    ]
}

fn by_policy() -> Vec<Scene> {
    let external = |name| Scene::new(name).node_port().external_local();
    let internal = |name| Scene::new(name).internal_local();
    vec![
        // Here is somebody who still serves, elsewhere somebody ready: each path has its own fallback.
        external("external-local-draining").members([draining(A), ready(C)]).rows([
            row([STRANGER, OUTSIDE], [NodePort], Expected::sees_the_client([A])),
            row([NEIGHBOUR], [NodePort, ClusterIp], Expected::sees_the_client([C])),
            row([NODE], [NodePort], Expected::sees_the_node([C])),
            row([OUTSIDE], [ClusterIp], Expected::sees_the_node([C])),
        ]),
        external("external-local-ready-wins").members([draining(A), ready(B), draining(C)]).rows([
            row([STRANGER, OUTSIDE], [NodePort], Expected::sees_the_client([B])),
            row([NEIGHBOUR], [NodePort], Expected::sees_the_client([B])),
        ]),
        external("external-local-ending").members([ending(A), unready(B), ready(C)]).rows([
            row([STRANGER, OUTSIDE], [NodePort], Expected::Silent),
            row([NEIGHBOUR], [NodePort], Expected::sees_the_client([C])),
        ]),
        external("external-local-all-ending").members([ending(A), unready(B), serving(C)]).rows([row(
            [NEIGHBOUR, STRANGER, NODE, OUTSIDE],
            [NodePort],
            Expected::Rejected,
        )]),
        internal("internal-local-draining").members([draining(A), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])),
            row([NODE, OUTSIDE], [ClusterIp], Expected::sees_the_node([A])),
        ]),
        internal("internal-local-ending").members([ending(A), ready(C)]).rows([row(
            [NEIGHBOUR, NODE, OUTSIDE],
            [ClusterIp],
            Expected::Silent,
        )]),
        internal("internal-local-draining-elsewhere").members([unready(A), draining(C)]).rows([row(
            [NEIGHBOUR, NODE, OUTSIDE],
            [ClusterIp],
            Expected::Silent,
        )]),
    ]
}
