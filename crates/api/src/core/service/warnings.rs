//! What a client is told about a Service that is accepted but won't do what it seems to.

use serde_json::Value;

use super::shape::{HEADLESS, is_external_name, service_type};
use crate::address::{cidr_warnings, ip_warnings};
use crate::field::Path;
use crate::tree::{has_key, list, same, text, texts};

pub(super) fn warnings(service: &Value, old: Option<&Value>) -> Vec<String> {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let mut warnings = Vec::new();
    if has_key(&service["metadata"]["annotations"], "service.kubernetes.io/topology-aware-hints") {
        warnings.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let cluster_ip = text(&spec["clusterIP"]);
    let headless = service_type(service) == "ClusterIP" && cluster_ip == HEADLESS;
    if !cluster_ip.is_empty() && cluster_ip != HEADLESS {
        warnings.extend(list_warnings(spec, &path, "clusterIPs", ip_warnings));
    }
    let external_ips = !list(&spec["externalIPs"]).is_empty();
    let balancer_ip = text(&spec["loadBalancerIP"]);
    if headless {
        warnings.extend(headless_warnings(service));
    }
    warnings.extend(list_warnings(spec, &path, "externalIPs", ip_warnings));
    if external_ips && !headless && !is_external_name(service) {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !balancer_ip.is_empty() {
        warnings.extend(ip_warnings(&path.child("loadBalancerIP"), balancer_ip));
    }
    warnings.extend(list_warnings(spec, &path, "loadBalancerSourceRanges", cidr_warnings));
    if is_external_name(service) && external_ips {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_external_name(service) && !text(&spec["externalName"]).is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(&spec["trafficDistribution"]) == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings.extend(status_warnings(service, old));
    warnings
}

fn headless_warnings(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let ignored = [
        (!text(&spec["loadBalancerIP"]).is_empty(), "loadBalancerIP"),
        (!list(&spec["externalIPs"]).is_empty(), "externalIPs"),
        (text(&spec["sessionAffinity"]) != "None", "SessionAffinity"),
    ];
    let ignored = ignored.into_iter().filter(|(set, _)| *set);
    ignored.map(|(_, field)| format!("spec.{field} is ignored for headless services")).collect()
}

fn list_warnings(spec: &Value, path: &Path, field: &str, check: fn(&Path, &str) -> Vec<String>) -> Vec<String> {
    let path = path.child(field);
    texts(&spec[field]).into_iter().enumerate().flat_map(|(i, value)| check(&path.index(i), value)).collect()
}

/// Only an update of the status changes it, so only that one hears about it.
fn status_warnings(service: &Value, old: Option<&Value>) -> Vec<String> {
    let ingress = &service["status"]["loadBalancer"]["ingress"];
    if old.is_none_or(|old| same(ingress, &old["status"]["loadBalancer"]["ingress"])) {
        return Vec::new();
    }
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let addresses = list(ingress).iter().map(|ingress| text(&ingress["ip"])).enumerate();
    addresses.flat_map(|(i, ip)| ip_warnings(&path.index(i), ip)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_warning() {
        let cases: [(Value, &[&str]); 13] = [
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "ClientIP"}),
                &[],
            ),
            (json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "None"}), &[]),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP"}),
                &["spec.SessionAffinity is ignored for headless services"],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "None", "loadBalancerIP": "1.2.3.4"}),
                &["spec.loadBalancerIP is ignored for headless services"],
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "None", "externalIPs": ["1.2.3.4"]}),
                &["spec.externalIPs is ignored for headless services"],
            ),
            (
                json!({"type": "NodePort", "externalIPs": ["1.2.3.4"]}),
                &["spec.externalIPs is deprecated and may no longer be implemented in some clusters"],
            ),
            (
                json!({"type": "ExternalName", "externalName": "a", "externalIPs": ["1.2.3.4"]}),
                &["spec.externalIPs is ignored when spec.type is \"ExternalName\""],
            ),
            (
                json!({"type": "ClusterIP", "externalName": "a"}),
                &["spec.externalName is ignored when spec.type is not \"ExternalName\""],
            ),
            (
                json!({"type": "ClusterIP", "trafficDistribution": "PreferClose"}),
                &["spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""],
            ),
            (json!({"type": "ClusterIP", "trafficDistribution": "PreferSameNode"}), &[]),
            (
                json!({"type": "ClusterIP", "clusterIP": "FD00::1", "clusterIPs": ["FD00::1"]}),
                &["spec.clusterIPs[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"],
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerIP": "010.0.0.1"}),
                &["spec.loadBalancerIP: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\""],
            ),
            (
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"]}),
                &[
                    "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \
                   \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(warnings(&json!({"spec": spec}), None), expected, "{spec}");
        }
        let annotated = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "auto"}}});
        assert_eq!(warnings(&annotated, None).len(), 1);
    }

    #[test]
    fn a_status_update_hears_about_its_addresses() {
        let old = json!({"spec": {"type": "LoadBalancer"}});
        let new =
            json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "FD00::1"}]}}});
        let expected = [
            "status.loadBalancer.ingress[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
        ];
        assert_eq!(warnings(&new, Some(&old)), expected);
        assert_eq!(warnings(&new, Some(&new)), Vec::<String>::new());
    }
}
