//! Traffic policies: `externalTrafficPolicy` and `internalTrafficPolicy` Local, with endpoints here, elsewhere and nowhere
//! (KEP-2086, and what an external address is to the node's own pods).

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

pub fn scenes() -> Vec<Scene> {
    let mut scenes = external();
    scenes.extend(internal());
    scenes
}

/// From outside only endpoints here are reached, and see who asks. The node and its pods don't come from outside: they
/// reach all of them; only what the node itself sends is masqueraded, since it may leave for another node.
fn external() -> Vec<Scene> {
    let scene = |name| Scene::new(name).everywhere().external_local();
    let inner = |expected| row([NODE, STRANGER, OUTSIDE], [ClusterIp], expected);
    vec![
        scene("external-local").members([ready(A), ready(C)]).rows([
            row([STRANGER, OUTSIDE], OUTER, Expected::sees_the_client([A])),
            row([NEIGHBOUR], ALL_FOUR, Expected::sees_the_client([A, C])),
            row([NODE], OUTER, Expected::sees_the_node([A, C])),
            inner(Expected::sees_the_node([A, C])),
        ]),
        scene("external-local-two").members([ready(A), ready(B)]).rows([
            row([STRANGER, OUTSIDE], OUTER, Expected::sees_the_client([A, B])),
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([A, B])),
            row([NODE], OUTER, Expected::sees_the_node([A, B])),
        ]),
        scene("external-local-elsewhere").members([ready(C)]).rows([
            row([STRANGER, OUTSIDE], OUTER, Expected::Silent),
            row([NEIGHBOUR], ALL_FOUR, Expected::sees_the_client([C])),
            row([NODE], OUTER, Expected::sees_the_node([C])),
            inner(Expected::sees_the_node([C])),
        ]),
        scene("external-local-nobody").rows([row(EVERYBODY, ALL_FOUR, Expected::Rejected)]),
    ]
}

fn internal() -> Vec<Scene> {
    let scene = |name| Scene::new(name).everywhere().internal_local();
    vec![
        scene("internal-local").members([ready(A), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])),
            row([NODE, STRANGER, OUTSIDE], [ClusterIp], Expected::sees_the_node([A])),
            row(EVERYBODY, OUTER, Expected::sees_the_node([A, C])),
        ]),
        // The policy is kept though others could answer.
        scene("internal-local-elsewhere")
            .members([ready(C)])
            .rows([row(EVERYBODY, [ClusterIp], Expected::Silent), row(EVERYBODY, OUTER, Expected::sees_the_node([C]))]),
        scene("internal-local-nobody").rows([row(EVERYBODY, [ClusterIp, NodePort], Expected::Rejected)]),
        scene("both-local").external_local().members([ready(A), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])),
            row([NODE, OUTSIDE], [ClusterIp], Expected::sees_the_node([A])),
            row([OUTSIDE], OUTER, Expected::sees_the_client([A])),
            // At external addresses their traffic is external: it isn't kept here.
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([A, C])),
            row([NODE], OUTER, Expected::sees_the_node([A, C])),
        ]),
        scene("both-local-elsewhere").external_local().members([ready(C)]).rows([
            row(EVERYBODY, [ClusterIp], Expected::Silent),
            row([OUTSIDE], OUTER, Expected::Silent),
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([C])),
            row([NODE], OUTER, Expected::sees_the_node([C])),
        ]),
    ]
}
