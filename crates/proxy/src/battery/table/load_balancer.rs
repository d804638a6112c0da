//! Load balancers' addresses: taken at the node or left to the balancer (`ipMode`, KEP-1860), and open to whom
//! (`loadBalancerSourceRanges`).

use service_model::IpFamily;

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

pub fn scenes() -> Vec<Scene> {
    let mut scenes = addresses();
    scenes.extend(source_ranges());
    scenes
}

fn addresses() -> Vec<Scene> {
    vec![
        Scene::new("balanced").load_balancer("VIP").members([ready(A), ready(C)]).rows([
            row(EVERYBODY, [LoadBalancerIp, NodePort], Expected::sees_the_node([A, C])),
            row(EVERYBODY, [LoadBalancerIpOtherPort], Expected::Untouched),
        ]),
        Scene::new("balanced-nobody").load_balancer("VIP").rows([row(
            EVERYBODY,
            [LoadBalancerIp, NodePort],
            Expected::Rejected,
        )]),
        // The balancer has to see the traffic; what it sends on comes to the node port.
        Scene::new("balanced-by-proxy").load_balancer("Proxy").members([ready(A), ready(C)]).rows([
            row(EVERYBODY, [LoadBalancerIp], Expected::Untouched),
            row(EVERYBODY, [NodePort], Expected::sees_the_node([A, C])),
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A, C])),
        ]),
        Scene::new("balanced-by-proxy-nobody").load_balancer("Proxy").rows([
            row(EVERYBODY, [LoadBalancerIp], Expected::Untouched),
            row(EVERYBODY, [NodePort], Expected::Rejected),
        ]),
    ]
}

fn source_ranges() -> Vec<Scene> {
    // The first outsider and the node lie in the lower half of the network, the second outsider in the upper half.
    let lower_half = ["172.30.0.0/25", "fd00:172::/121"];
    let both = [A, C];
    vec![
        Scene::new("ranges").everywhere().source_ranges(lower_half).members([ready(A), ready(C)]).rows([
            row([OUTSIDE, NODE], [LoadBalancerIp], Expected::sees_the_node(both)),
            row([FAR, NEIGHBOUR, STRANGER], [LoadBalancerIp], Expected::Silent),
            // They guard the balancer's addresses and nothing else.
            row([FAR, NEIGHBOUR, STRANGER], [NodePort, ExternalIp], Expected::sees_the_node(both)),
            row([FAR, STRANGER], [ClusterIp], Expected::sees_the_node(both)),
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client(both)),
        ]),
        Scene::new("ranges-of-pods")
            .load_balancer("VIP")
            .source_ranges(["10.244.0.0/16", "fd00:244:1::/64", "fd00:244:2::/64"])
            .members([ready(A), ready(C)])
            .rows([
                row([NEIGHBOUR, STRANGER], [LoadBalancerIp], Expected::sees_the_node(both)),
                row([OUTSIDE, FAR, NODE], [LoadBalancerIp], Expected::Silent),
            ]),
        Scene::new("ranges-of-all")
            .load_balancer("VIP")
            .source_ranges(["0.0.0.0/0", "::/0"])
            .members([ready(A), ready(C)])
            .rows([row([NEIGHBOUR, STRANGER, NODE, OUTSIDE, FAR], [LoadBalancerIp], Expected::sees_the_node(both))]),
        // Whoever isn't admitted isn't told that there is nobody.
        Scene::new("ranges-nobody").load_balancer("VIP").source_ranges(lower_half).rows([
            row([OUTSIDE, NODE], [LoadBalancerIp], Expected::Rejected),
            row([FAR, NEIGHBOUR, STRANGER], [LoadBalancerIp], Expected::Silent),
            row([FAR, NEIGHBOUR], [NodePort], Expected::Rejected),
        ]),
        Scene::new("ranges-and-local")
            .load_balancer("VIP")
            .external_local()
            .source_ranges(lower_half)
            .members([ready(A), ready(C)])
            .rows([
                row([OUTSIDE], [LoadBalancerIp], Expected::sees_the_client([A])),
                row([NODE], [LoadBalancerIp], Expected::sees_the_node(both)),
                row([FAR, NEIGHBOUR, STRANGER], [LoadBalancerIp], Expected::Silent),
                row([FAR], [NodePort], Expected::sees_the_client([A])),
            ]),
        // Ranges of one family admit nobody of the other.
        Scene::new("ranges-ipv4")
            .load_balancer("VIP")
            .source_ranges(["172.30.0.0/25"])
            .members([ready(A), ready(C)])
            .rows([
                row([OUTSIDE], [LoadBalancerIp], Expected::sees_the_node(both)).family(IpFamily::V4),
                row([OUTSIDE, FAR], [LoadBalancerIp], Expected::Silent).family(IpFamily::V6),
                row([FAR], [LoadBalancerIp], Expected::Silent).family(IpFamily::V4),
            ]),
    ]
}
