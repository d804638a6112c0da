//! What the node is told beside Services: that nobody knows which pods are its own, and that everybody is to be
//! masqueraded.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, Setup, ready, row};

pub fn scenes() -> Vec<Scene> {
    let mut scenes = pods_unknown();
    scenes.extend(masquerade_all());
    scenes
}

/// Nobody can be told from the node's own pods, so at cluster IPs nobody is masqueraded, and at external addresses with
/// policy Local the node's pods are treated like strangers. Endpoints elsewhere would answer past the node.
fn pods_unknown() -> Vec<Scene> {
    let scene = |name| Scene::new(name).setup(Setup::PodsUnknown).everywhere();
    vec![
        scene("pods-unknown").members([ready(A), ready(B)]).rows([
            row(EVERYBODY, [ClusterIp], Expected::sees_the_client([A, B])),
            row(EVERYBODY, OUTER, Expected::sees_the_node([A, B])),
            row(EVERYBODY, [ClusterIpOtherPort], Expected::Rejected),
        ]),
        scene("pods-unknown-external-local").external_local().members([ready(A), ready(C)]).rows([
            row([NEIGHBOUR, STRANGER, OUTSIDE], OUTER, Expected::sees_the_client([A])),
            row([NODE], OUTER, Expected::sees_the_node([A, C])),
        ]),
        scene("pods-unknown-external-local-elsewhere").external_local().members([ready(C)]).rows([
            row([NEIGHBOUR, STRANGER, OUTSIDE], OUTER, Expected::Silent),
            row([NODE], OUTER, Expected::sees_the_node([C])),
        ]),
        scene("pods-unknown-hairpin").members([ready(A)]).rows([row(
            [Sender::Pod(A)],
            ALL_FOUR,
            Expected::sees_the_node([A]),
        )]),
        scene("pods-unknown-nobody").rows([row(EVERYBODY, ALL_FOUR, Expected::Rejected)]),
    ]
}

/// At cluster IPs, that is: a policy Local still shows the client.
fn masquerade_all() -> Vec<Scene> {
    let scene = |name| Scene::new(name).setup(Setup::MasqueradeAll).everywhere();
    vec![
        scene("masquerade-all").members([ready(A), ready(C)]).rows([row(
            EVERYBODY,
            ALL_FOUR,
            Expected::sees_the_node([A, C]),
        )]),
        scene("masquerade-all-external-local").external_local().members([ready(A), ready(C)]).rows([
            row(EVERYBODY, [ClusterIp], Expected::sees_the_node([A, C])),
            row([STRANGER, OUTSIDE], OUTER, Expected::sees_the_client([A])),
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([A, C])),
        ]),
        scene("masquerade-all-internal-local").internal_local().members([ready(A), ready(C)]).rows([row(
            EVERYBODY,
            [ClusterIp],
            Expected::sees_the_node([A]),
        )]),
    ]
}
