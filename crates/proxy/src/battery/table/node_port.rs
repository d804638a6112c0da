//! Node ports: at which of the node's addresses, from where.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, Setup, ready, row};

pub fn scenes() -> Vec<Scene> {
    // The endpoint may be on another node, so everybody is masqueraded (policy Cluster).
    vec![
        Scene::new("node-port").node_port().members([ready(A), ready(C)]).rows([
            row(EVERYBODY, [NodePort, SecondNodePort], Expected::sees_the_node([A, C])),
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A, C])),
            row([NODE, STRANGER, OUTSIDE], [ClusterIp], Expected::sees_the_node([A, C])),
        ]),
        Scene::new("node-port-here").node_port().members([ready(A), ready(B)]).rows([row(
            EVERYBODY,
            [NodePort],
            Expected::sees_the_node([A, B]),
        )]),
        Scene::new("node-port-nobody").node_port().rows([row(
            EVERYBODY,
            [NodePort, SecondNodePort, ClusterIp],
            Expected::Rejected,
        )]),
        Scene::new("node-port-first-address")
            .setup(Setup::FirstAddress)
            .node_port()
            .members([ready(A), ready(C)])
            .rows([
                row(EVERYBODY, [NodePort], Expected::sees_the_node([A, C])),
                row(EVERYBODY, [SecondNodePort], Expected::Untouched),
            ]),
        Scene::new("node-port-first-address-nobody").setup(Setup::FirstAddress).node_port().rows([
            row(EVERYBODY, [NodePort], Expected::Rejected),
            row(EVERYBODY, [SecondNodePort], Expected::Untouched),
        ]),
    ]
}
