//! What an update means when it says less than the object holds: allocated values a client left out are kept, and
//! values that only the old type needed are dropped. Users' changes are never touched: validation judges those.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::shape::{
    allocates_node_ports, has_node_ports, is_external_name, is_externally_accessible, is_load_balancer,
    needs_health_check, node_ports, same_texts, service_type,
};
use crate::tree::{child_mut, copy, elements_mut, int, list, put, remove, same, text, unset};

/// Makes `clusterIP` and `clusterIPs` agree where one client only knows the older field.
pub(super) fn pair_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let cluster_ip = text(&new["spec"]["clusterIP"]).to_owned();
    let Some(old) = old else {
        if !cluster_ip.is_empty() && unset(&new["spec"]["clusterIPs"]) {
            *child_mut(child_mut(new, "spec"), "clusterIPs") = json!([cluster_ip]);
        }
        return;
    };
    let old_cluster_ip = text(&old["spec"]["clusterIP"]);
    let unchanged = cluster_ip == old_cluster_ip;
    if unchanged && unset(&new["spec"]["clusterIPs"]) && !unset(&old["spec"]["clusterIPs"]) {
        copy(child_mut(new, "spec"), &old["spec"], "clusterIPs");
    }
    if !unchanged && same_texts(new, old, "clusterIPs") {
        let cleared = !old_cluster_ip.is_empty() && cluster_ip.is_empty();
        let both = if cleared { Value::Null } else { json!([cluster_ip]) };
        put(child_mut(new, "spec"), "clusterIPs", both);
    }
}

/// Keeps what was allocated when a client sends its manifest again without it.
pub(super) fn patch_allocated_values(new: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(new) {
        for field in ["clusterIP", "clusterIPs"] {
            if unset(&new["spec"][field]) {
                copy(child_mut(new, "spec"), &old["spec"], field);
            }
        }
    }
    if allocates_node_ports(old) && allocates_node_ports(new) {
        patch_node_ports(new, old);
    }
    if needs_health_check(old) && needs_health_check(new) && unset(&new["spec"]["healthCheckNodePort"]) {
        copy(child_mut(new, "spec"), &old["spec"], "healthCheckNodePort");
    }
}

/// A port keeps the node port it had under the same name, unless another port now asks for that.
fn patch_node_ports(new: &mut Value, old: &Value) {
    let before: BTreeSet<i64> = node_ports(old).into_iter().collect();
    let used: BTreeSet<i64> = node_ports(new).into_iter().filter(|port| before.contains(port)).collect();
    let old_ports = list(&old["spec"]["ports"]);
    for port in elements_mut(child_mut(new, "spec"), "ports") {
        if !unset(&port["nodePort"]) {
            continue;
        }
        let named = old_ports.iter().rev().find(|o| text(&o["name"]) == text(&port["name"]));
        let value = named.map_or(0, |o| int(&o["nodePort"]));
        if !used.contains(&value) {
            put(port, "nodePort", value);
        }
    }
}

/// Drops fields that the new type has no use for, provided the client didn't change them.
pub(super) fn drop_type_dependent_fields(new: &mut Value, old: &Value) {
    if !is_external_name(old) && is_external_name(new) {
        drop_addresses(new, old);
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before: BTreeSet<i64> = node_ports(old).into_iter().collect();
        if node_ports(new).iter().all(|port| before.contains(port)) {
            elements_mut(child_mut(new, "spec"), "ports").for_each(|port| remove(port, "nodePort"));
        }
    }
    type Needs = fn(&Value) -> bool;
    let dependent: [(&str, Needs); 4] = [
        ("healthCheckNodePort", needs_health_check),
        ("allocateLoadBalancerNodePorts", is_load_balancer),
        ("loadBalancerClass", is_load_balancer),
        ("externalTrafficPolicy", is_externally_accessible),
    ];
    // Asked before anything is dropped: one field's need must not depend on another's removal.
    let obsolete: Vec<&str> = dependent
        .iter()
        .filter(|(field, needed)| needed(old) && !needed(new) && same(&new["spec"][*field], &old["spec"][*field]))
        .map(|(field, _)| *field)
        .collect();
    obsolete.into_iter().for_each(|field| remove(child_mut(new, "spec"), field));
    if service_type(new) != "LoadBalancer" && !unset(&new["status"]["loadBalancer"]) {
        *child_mut(child_mut(new, "status"), "loadBalancer") = json!({});
    }
}

fn drop_addresses(new: &mut Value, old: &Value) {
    let same_ips =
        text(&new["spec"]["clusterIP"]) == text(&old["spec"]["clusterIP"]) && same_texts(new, old, "clusterIPs");
    let same_families = same_texts(new, old, "ipFamilies");
    let same_policy = text(&new["spec"]["ipFamilyPolicy"]) == text(&old["spec"]["ipFamilyPolicy"]);
    let spec = child_mut(new, "spec");
    if same_ips {
        remove(spec, "clusterIP");
        remove(spec, "clusterIPs");
    }
    if same_families {
        remove(spec, "ipFamilies");
    }
    if same_policy {
        remove(spec, "ipFamilyPolicy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_on_create() {
        let cases = [
            (json!({"clusterIP": "10.0.0.1"}), json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]})),
            (json!({"clusterIPs": ["10.0.0.1"]}), json!({"clusterIPs": ["10.0.0.1"]})),
            (json!({}), json!({})),
        ];
        for (given, expected) in cases {
            let mut new = json!({"spec": given});
            pair_cluster_ips(&mut new, None);
            assert_eq!(new["spec"], expected);
        }
    }

    #[test]
    fn pairing_on_update() {
        let old = json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}});
        let cases = [
            (json!({"clusterIP": "10.0.0.1"}), json!(["10.0.0.1", "fd00::1"])),
            (json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1", "fd00::1"]}), json!(["10.0.0.2"])),
            (json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}), json!(null)),
            (json!({"clusterIPs": ["10.0.0.9"]}), json!(["10.0.0.9"])),
            (json!({}), json!(null)),
        ];
        for (given, expected) in cases {
            let mut new = json!({"spec": given});
            pair_cluster_ips(&mut new, Some(&old));
            assert_eq!(new["spec"]["clusterIPs"], expected, "{given}");
        }
    }

    #[test]
    fn allocated_values_are_kept() {
        let old = json!({"spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100,
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}],
        }});
        let manifest =
            |ports: Value| json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports}});
        let cases = [
            (json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]), vec![30001, 30002]),
            (json!([{"name": "b", "port": 99}, {"name": "a", "port": 98}]), vec![30002, 30001]),
            (json!([{"name": "a", "port": 80}, {"name": "c", "port": 82}]), vec![30001]),
            (json!([{"name": "a", "port": 80, "nodePort": 30002}, {"name": "b", "port": 81}]), vec![30002]),
            (json!([{"name": "a", "port": 80, "nodePort": 31000}, {"name": "b", "port": 81}]), vec![31000, 30002]),
        ];
        for (ports, expected) in cases {
            let mut new = manifest(ports.clone());
            patch_allocated_values(&mut new, &old);
            assert_eq!(node_ports(&new), expected, "{ports}");
            assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
            assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
            assert_eq!(new["spec"]["healthCheckNodePort"], 30100);
        }
    }

    #[test]
    fn nothing_is_kept_that_the_new_type_has_no_use_for() {
        let old =
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "ExternalName", "ports": [{"port": 80}]}});
        patch_allocated_values(&mut new, &old);
        assert_eq!(new, json!({"spec": {"type": "ExternalName", "ports": [{"port": 80}]}}));
        let mut new =
            json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}});
        patch_allocated_values(&mut new, &old);
        assert_eq!(node_ports(&new), Vec::<i64>::new());
    }

    #[test]
    fn leaving_a_type_drops_what_only_it_needs() {
        let spec = |extra: Value| {
            let mut spec = json!({
                "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "externalTrafficPolicy": "Local", "healthCheckNodePort": 30100, "loadBalancerClass": "a/b",
                "allocateLoadBalancerNodePorts": true, "ports": [{"port": 80, "nodePort": 30001}],
            });
            spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
            json!({"spec": spec})
        };
        let old = spec(json!({"type": "LoadBalancer"}));
        let mut new = spec(json!({"type": "ClusterIP"}));
        drop_type_dependent_fields(&mut new, &old);
        let expected = json!({
            "type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}],
        });
        assert_eq!(new["spec"], expected);

        let mut new = spec(json!({"type": "ExternalName"}));
        drop_type_dependent_fields(&mut new, &old);
        assert_eq!(new["spec"], json!({"type": "ExternalName", "ports": [{"port": 80}]}));

        let mut new = spec(json!({"type": "NodePort", "loadBalancerClass": "c/d", "healthCheckNodePort": 30200}));
        drop_type_dependent_fields(&mut new, &old);
        assert_eq!(new["spec"]["loadBalancerClass"], "c/d", "a change is for validation to refuse");
        assert_eq!(new["spec"]["healthCheckNodePort"], 30200);
        assert_eq!(new["spec"]["externalTrafficPolicy"], "Local");
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "nodePort": 30001}]));

        let mut new = spec(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30009}]}));
        drop_type_dependent_fields(&mut new, &old);
        assert_eq!(node_ports(&new), [30009], "a new node port is for validation to refuse");
    }
}
