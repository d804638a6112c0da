//! Node ports at localhost, for processes of the node.

use service_model::IpFamily;

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, Setup, ready, row};

pub fn scenes() -> Vec<Scene> {
    let scene = |name| Scene::new(name).setup(Setup::Localhost).node_port();
    let here = |expected| row([Sender::NodeLoopback], [LocalhostNodePort], expected);
    vec![
        scene("localhost").members([ready(A), ready(C)]).rows([
            here(Expected::sees_the_node([A, C])).family(IpFamily::V4),
            here(Expected::Untouched).family(IpFamily::V6),
            row(EVERYBODY, [NodePort], Expected::sees_the_node([A, C])),
            row(EVERYBODY, [SecondNodePort], Expected::Untouched),
        ]),
        // The node's own traffic doesn't come from outside.
        scene("localhost-external-local")
            .external_local()
            .members([ready(A), ready(C)])
            .rows([here(Expected::sees_the_node([A, C])).family(IpFamily::V4)]),
        scene("localhost-nobody").rows([here(Expected::Rejected).family(IpFamily::V4)]),
    ]
}
