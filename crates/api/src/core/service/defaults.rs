//! What a Service has when its author says nothing. Fields that depend on the cluster are `families`' and
//! `allocation`'s.

use serde_json::{Value, json};

use super::shape::{is_externally_accessible, service_type};
use crate::tree::{absent, child_map, child_mut, elements_mut, fill, fill_absent, remove, text, unset};

/// Three hours (core/v1 `DefaultClientIPServiceAffinitySeconds`).
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn apply(service: &mut Value) {
    {
        let spec = child_mut(service, "spec");
        drop_unset(spec);
        fill(spec, "type", "ClusterIP");
        fill(spec, "sessionAffinity", "None");
        default_affinity(spec);
        for port in elements_mut(spec, "ports") {
            default_port(port);
        }
    }
    default_policies(service);
    default_status(service);
}

/// Zero values that mean "not set" are left out, as Go's encoder would.
fn drop_unset(spec: &mut Value) {
    for field in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "healthCheckNodePort",
        "externalIPs",
        "externalName",
        "externalTrafficPolicy",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "publishNotReadyAddresses",
        "ports",
        "selector",
    ] {
        if unset(&spec[field]) {
            remove(spec, field);
        }
    }
}

fn default_affinity(spec: &mut Value) {
    match text(&spec["sessionAffinity"]) {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" if absent(&spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]) => {
            let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
            *child_mut(spec, "sessionAffinityConfig") = config;
        }
        _ => {}
    }
}

fn default_port(port: &mut Value) {
    fill(port, "protocol", "TCP");
    if unset(&port["targetPort"]) {
        *child_mut(port, "targetPort") = if absent(&port["port"]) { 0.into() } else { port["port"].clone() };
    }
    for field in ["nodePort", "name"] {
        if unset(&port[field]) {
            remove(port, field);
        }
    }
}

fn default_policies(service: &mut Value) {
    let external = is_externally_accessible(service);
    let service_type = service_type(service).to_owned();
    let spec = child_mut(service, "spec");
    if external {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(service_type.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        fill_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        fill_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn default_status(service: &mut Value) {
    let load_balancer = service_type(service) == "LoadBalancer";
    let status = child_mut(service, "status");
    child_map(status, "loadBalancer");
    if load_balancer {
        for ingress in elements_mut(child_mut(status, "loadBalancer"), "ingress") {
            if !unset(&ingress["ip"]) {
                fill_absent(ingress, "ipMode", "VIP");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(spec: Value) -> Value {
        let mut service = json!({"spec": spec});
        apply(&mut service);
        let once = service.clone();
        apply(&mut service);
        assert_eq!(service, once, "defaulting is idempotent");
        service["spec"].take()
    }

    #[test]
    fn defaults() {
        let cases = [
            (json!({}), json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"})),
            (
                json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 0, "name": ""}]}),
                json!({
                    "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "ports": [
                        {"port": 80, "protocol": "TCP", "targetPort": 80},
                        {"port": 53, "protocol": "UDP", "targetPort": "dns"},
                    ],
                }),
            ),
            (
                json!({"type": "NodePort", "internalTrafficPolicy": "Local"}),
                json!({
                    "type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Local",
                    "externalTrafficPolicy": "Cluster",
                }),
            ),
            (
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
                json!({
                    "type": "LoadBalancer", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": true,
                }),
            ),
            (
                json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
                json!({
                    "type": "LoadBalancer", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": false,
                }),
            ),
            (
                json!({"externalIPs": ["1.2.3.4"]}),
                json!({
                    "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                    "externalTrafficPolicy": "Cluster", "externalIPs": ["1.2.3.4"],
                }),
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "", "healthCheckNodePort": 0}),
                json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}),
            ),
            (
                json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
                json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}),
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}),
                json!({
                    "type": "ClusterIP", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                }),
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                json!({
                    "type": "ClusterIP", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}},
                }),
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(spec(given.clone()), expected, "{given}");
        }
    }

    #[test]
    fn addresses_of_load_balancers_are_virtual() {
        let status = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "a"}, {"ip": "1.2.3.5", "ipMode": "Proxy"}]}});
        let mut service = json!({"spec": {"type": "LoadBalancer"}, "status": status});
        apply(&mut service);
        assert_eq!(
            service["status"]["loadBalancer"]["ingress"],
            json!([{"ip": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "a"}, {"ip": "1.2.3.5", "ipMode": "Proxy"}])
        );
    }
}
