//! Cluster IPs: who reaches which endpoints as whom, and what the Service range does where no Service is.

use service_model::{HEADLESS_LABEL, IpFamily, PROXY_NAME_LABEL};

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

pub fn scenes() -> Vec<Scene> {
    // Answers have to come back through this node. Those of its own pods' connections do anyway.
    let three = [A, B, C];
    vec![
        Scene::new("cluster-ip").members([ready(A), ready(B), ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client(three)),
            row([NODE, STRANGER, OUTSIDE], [ClusterIp], Expected::sees_the_node(three)),
            row(EVERYBODY, [ClusterIpOtherPort], Expected::Rejected),
            row(EVERYBODY, [UnallocatedClusterIp], Expected::Silent),
            row(EVERYBODY, [OtherNodePort], Expected::Untouched),
        ]),
        Scene::new("cluster-ip-elsewhere").members([ready(C)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([C])),
            row([NODE, STRANGER, OUTSIDE], [ClusterIp], Expected::sees_the_node([C])),
        ]),
        Scene::new("cluster-ip-nobody").rows([row(EVERYBODY, [ClusterIp, ClusterIpOtherPort], Expected::Rejected)]),
        // In the other family its place in the Service range is nobody's.
        Scene::new("cluster-ip-ipv4").single_family(IpFamily::V4).members([ready(A)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])).family(IpFamily::V4),
            row([NODE, OUTSIDE], [ClusterIp], Expected::sees_the_node([A])).family(IpFamily::V4),
            row([NEIGHBOUR, NODE, OUTSIDE], [ClusterIp], Expected::Silent).family(IpFamily::V6),
        ]),
        Scene::new("cluster-ip-ipv6").single_family(IpFamily::V6).members([ready(B)]).rows([
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([B])).family(IpFamily::V6),
            row([NODE, OUTSIDE], [ClusterIp], Expected::sees_the_node([B])).family(IpFamily::V6),
            row([NEIGHBOUR, NODE, OUTSIDE], [ClusterIp], Expected::Silent).family(IpFamily::V4),
        ]),
        // KEP-2447: another proxy serves it. For this one, nobody has its addresses.
        Scene::new("somebody-elses")
            .everywhere()
            .label(PROXY_NAME_LABEL, "another")
            .members([ready(A)])
            .rows([row(EVERYBODY, [ClusterIp], Expected::Silent), row(EVERYBODY, OUTER, Expected::Untouched)]),
        // That label is the endpoints' alone.
        Scene::new("labelled-headless").external_ip().label(HEADLESS_LABEL, "").members([ready(A)]).rows([row(
            [NEIGHBOUR, OUTSIDE],
            [ExternalIp],
            Expected::sees_the_node([A]),
        )]),
        Scene::new("endpoints-labelled-headless")
            .external_ip()
            .slice_label(HEADLESS_LABEL, "")
            .members([ready(A)])
            .rows([row([NEIGHBOUR, OUTSIDE], [ClusterIp, ExternalIp], Expected::Rejected)]),
        // And this one is the Service's.
        Scene::new("endpoints-labelled-somebody-elses")
            .slice_label(PROXY_NAME_LABEL, "another")
            .members([ready(A)])
            .rows([row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A]))]),
    ]
}
