//! External IPs: on their Service's ports only, and nobody's business otherwise.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

pub fn scenes() -> Vec<Scene> {
    vec![
        Scene::new("external-ip").external_ip().members([ready(A), ready(C)]).rows([
            row(EVERYBODY, [ExternalIp], Expected::sees_the_node([A, C])),
            // Unlike a cluster IP, the address is somebody's who may have other ports.
            row(EVERYBODY, [ExternalIpOtherPort], Expected::Untouched),
        ]),
        Scene::new("external-ip-nobody").external_ip().rows([
            row(EVERYBODY, [ExternalIp], Expected::Rejected),
            row([NEIGHBOUR, OUTSIDE], [ExternalIpOtherPort], Expected::Untouched),
        ]),
        // A cluster IP has neither an external address nor a node port.
        Scene::new("no-external-ip").members([ready(A)]).rows([row(
            EVERYBODY,
            [ExternalIp, NodePort],
            Expected::Untouched,
        )]),
    ]
}
