//! Questions about a Service that its rules ask in several places. Not responsible for answers that need a cluster.

use serde_json::Value;

use crate::tree::{absent, flag, int, list, text, texts};

pub(super) const HEADLESS: &str = "None";

/// `spec.type`.
pub(super) fn service_type(service: &Value) -> &str {
    text(&service["spec"]["type"])
}

pub(super) fn is_load_balancer(service: &Value) -> bool {
    service_type(service) == "LoadBalancer"
}

pub(super) fn is_external_name(service: &Value) -> bool {
    service_type(service) == "ExternalName"
}

/// `clusterIPs` is exactly `["None"]`.
pub(super) fn is_headless(service: &Value) -> bool {
    texts(&service["spec"]["clusterIPs"]) == [HEADLESS]
}

/// Reachable from outside the cluster, so that an external traffic policy has a meaning.
pub(super) fn is_externally_accessible(service: &Value) -> bool {
    match service_type(service) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(&service["spec"]["externalIPs"]).is_empty(),
        _ => false,
    }
}

/// A load balancer must be told which nodes have local endpoints.
pub(super) fn needs_health_check(service: &Value) -> bool {
    is_load_balancer(service) && text(&service["spec"]["externalTrafficPolicy"]) == "Local"
}

/// The type goes with node ports, whether or not they are to be allocated.
pub(super) fn has_node_ports(service: &Value) -> bool {
    matches!(service_type(service), "NodePort" | "LoadBalancer")
}

/// Ports without a nodePort are to get one.
pub(super) fn allocates_node_ports(service: &Value) -> bool {
    let wanted = &service["spec"]["allocateLoadBalancerNodePorts"];
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => absent(wanted) || flag(wanted),
        _ => false,
    }
}

/// The node ports there are, in the order of the ports.
pub(super) fn node_ports(service: &Value) -> Vec<i64> {
    list(&service["spec"]["ports"]).iter().map(|port| int(&port["nodePort"])).filter(|port| *port != 0).collect()
}

pub(super) fn same_texts(a: &Value, b: &Value, field: &str) -> bool {
    texts(&a["spec"][field]) == texts(&b["spec"][field])
}
