//! Protocols: a port is one protocol's. SCTP's cases need a kernel that has it.

use service_model::Protocol;

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

pub fn scenes() -> Vec<Scene> {
    let mut scenes =
        vec![one_only("tcp-only", Protocol::Tcp, Protocol::Udp), one_only("udp-only", Protocol::Udp, Protocol::Tcp)];
    scenes.extend(sctp());
    scenes
}

fn one_only(name: &'static str, protocol: Protocol, other: Protocol) -> Scene {
    Scene::new(name).protocol(protocol).everywhere().members([ready(A), ready(C)]).rows([
        row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A, C])),
        row(EVERYBODY, OUTER, Expected::sees_the_node([A, C])),
        row(EVERYBODY, [ClusterIp], Expected::Rejected).protocol(other),
        row(EVERYBODY, OUTER, Expected::Untouched).protocol(other),
    ])
}

fn sctp() -> Vec<Scene> {
    let scene = |name| Scene::new(name).protocol(Protocol::Sctp).everywhere();
    vec![
        scene("sctp").members([ready(A), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A, C])),
            row([NODE, STRANGER, OUTSIDE], [ClusterIp], Expected::sees_the_node([A, C])),
            row(EVERYBODY, OUTER, Expected::sees_the_node([A, C])),
            row(EVERYBODY, [UnallocatedClusterIp], Expected::Silent),
        ]),
        scene("sctp-external-local").external_local().members([ready(A), ready(C)]).rows([
            row([STRANGER, OUTSIDE], OUTER, Expected::sees_the_client([A])),
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([A, C])),
            row([NODE], OUTER, Expected::sees_the_node([A, C])),
        ]),
        scene("sctp-external-local-elsewhere").external_local().members([ready(C)]).rows([
            row([STRANGER, OUTSIDE], OUTER, Expected::Silent),
            row([NEIGHBOUR], OUTER, Expected::sees_the_client([C])),
        ]),
        scene("sctp-internal-local-elsewhere").internal_local().members([ready(C)]).rows([row(
            EVERYBODY,
            [ClusterIp],
            Expected::Silent,
        )]),
        scene("sctp-sticky").sticky().members([ready(A), ready(B), ready(C)]).rows([row(
            [STRANGER, OUTSIDE],
            ALL_FOUR,
            Expected::sees_the_node([A, B, C]).sticking(),
        )]),
        scene("sctp-nobody").rows([row(EVERYBODY, ALL_FOUR, Expected::Rejected)]),
    ]
}
