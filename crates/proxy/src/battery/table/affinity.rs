//! Session affinity: a client meets one endpoint, whichever of the Service's addresses it uses. What ends it is a matter
//! of time and change, which a table of first packets doesn't have.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, draining, ready, row};

pub fn scenes() -> Vec<Scene> {
    let three = [A, B, C];
    let by_the_node = |pods: &[Pod]| Expected::sees_the_node(pods).sticking();
    let by_the_client = |pods: &[Pod]| Expected::sees_the_client(pods).sticking();
    vec![
        Scene::new("sticky").everywhere().sticky().members([ready(A), ready(B), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], by_the_client(&three)),
            row([NEIGHBOUR], OUTER, by_the_node(&three)),
            row([STRANGER, NODE, OUTSIDE, FAR], ALL_FOUR, by_the_node(&three)),
        ]),
        Scene::new("sticky-external-local").everywhere().external_local().sticky().members([ready(A), ready(B)]).rows(
            [
                row([OUTSIDE, STRANGER], OUTER, by_the_client(&[A, B])),
                row([OUTSIDE, STRANGER], [ClusterIp], by_the_node(&[A, B])),
                row([NEIGHBOUR], ALL_FOUR, by_the_client(&[A, B])),
            ],
        ),
        Scene::new("sticky-draining").node_port().sticky().members([draining(A), ready(B), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], by_the_client(&[B, C])),
            row([OUTSIDE], [ClusterIp, NodePort], by_the_node(&[B, C])),
        ]),
        Scene::new("sticky-nobody").everywhere().sticky().rows([row(
            [NEIGHBOUR, OUTSIDE],
            ALL_FOUR,
            Expected::Rejected,
        )]),
    ]
}
