//! What a Service may look like, with upstream's paths and words, in upstream's order. Addresses and families are
//! `validation_addresses`'.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::shape::{
    is_external_name, is_externally_accessible, is_headless, is_load_balancer, needs_health_check, service_type,
};
use super::validation_addresses;
use crate::address::{parse_ip, validate_endpoint_ip, validate_legacy_cidr, validate_legacy_ip};
use crate::field::{self, Path};
use crate::labels;
use crate::names;
use crate::tree::{absent, int, list, same, text, texts, unset};

pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_HINTS_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE_ANNOTATION: &str = "service.kubernetes.io/topology-mode";
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// Every mistake in a Service; `old` is what an update starts from, whose legacy values stay acceptable.
pub(super) fn validate(service: &Value, old: Option<&Value>) -> Vec<field::Error> {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let mut errors = validate_topology_annotations(service);
    if list(&spec["ports"]).is_empty() && !is_headless(service) && !is_external_name(service) {
        errors.push(field::Error::required(&path.child("ports"), ""));
    }
    errors.extend(validate_by_type(service));
    errors.extend(validate_ports(spec, &path));
    errors.extend(labels::validate(&spec["selector"], &path.child("selector")));
    errors.extend(validate_affinity(spec, &path));
    errors.extend(validation_addresses::validate(service, old));
    errors.extend(validate_external_ips(spec, old, &path));
    errors.extend(validate_type(service));
    errors.extend(validate_node_ports(service));
    errors.extend(validate_duplicate_ports(spec, &path));
    errors.extend(validate_source_ranges(service, old));
    errors.extend(validate_load_balancer(service));
    errors.extend(validate_external_traffic(service));
    errors.extend(validate_internal_traffic(service));
    let distribution = &spec["trafficDistribution"];
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if !absent(distribution) && !DISTRIBUTIONS.contains(&text(distribution)) {
        let path = path.child("trafficDistribution");
        errors.push(field::Error::not_supported(&path, distribution.clone(), DISTRIBUTIONS));
    }
    errors
}

/// What an update may not change, addresses aside.
pub(super) fn validate_change(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if is_load_balancer(old) && is_load_balancer(new) {
        let class = &new["spec"]["loadBalancerClass"];
        if !same(class, &old["spec"]["loadBalancerClass"]) {
            let path = path.child("loadBalancerClass");
            errors.push(field::Error::invalid(&path, class.clone(), "may not change once set"));
        }
    }
    errors.extend(validate_class(new));
    let port = |service: &Value| int(&service["spec"]["healthCheckNodePort"]);
    if needs_health_check(old) && needs_health_check(new) && port(old) != port(new) {
        errors.push(field::Error::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors
}

/// Every mistake in an update of the status.
pub(super) fn validate_status(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingresses = list(&new["status"]["loadBalancer"]["ingress"]);
    if !is_load_balancer(new) && !ingresses.is_empty() {
        return vec![field::Error::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'")];
    }
    let before = list(&old["status"]["loadBalancer"]["ingress"]);
    let existing: Vec<&str> = before.iter().map(|i| text(&i["ip"])).filter(|ip| !ip.is_empty()).collect();
    let ingresses = ingresses.iter().enumerate();
    ingresses.flat_map(|(i, ingress)| validate_ingress(ingress, &existing, &path.index(i))).collect()
}

fn validate_ingress(ingress: &Value, existing: &[&str], path: &Path) -> Vec<field::Error> {
    let (ip, mode, hostname) = (text(&ingress["ip"]), &ingress["ipMode"], text(&ingress["hostname"]));
    let mut errors = Vec::new();
    if !ip.is_empty() {
        errors.extend(validate_legacy_ip(&path.child("ip"), ip, existing));
    }
    let mode_path = path.child("ipMode");
    if absent(mode) {
        if !ip.is_empty() {
            errors.push(field::Error::required(&mode_path, "must be specified when `ip` is set"));
        }
    } else if ip.is_empty() {
        errors.push(field::Error::forbidden(&mode_path, "may not be specified when `ip` is not set"));
    } else if !["Proxy", "VIP"].contains(&text(mode)) {
        errors.push(field::Error::not_supported(&mode_path, mode.clone(), &["Proxy", "VIP"]));
    }
    if !hostname.is_empty() {
        let path = path.child("hostname");
        let mistakes = names::dns_subdomain(hostname, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, hostname, what)));
        if parse_ip(hostname).is_some() {
            errors.push(field::Error::invalid(&path, hostname, "must be a DNS name, not an IP address"));
        }
    }
    errors
}

fn validate_topology_annotations(service: &Value) -> Vec<field::Error> {
    let annotations = &service["metadata"]["annotations"];
    let (mode, hints) = (&annotations[TOPOLOGY_MODE_ANNOTATION], &annotations[TOPOLOGY_HINTS_ANNOTATION]);
    if absent(mode) || absent(hints) || text(mode) == text(hints) {
        return Vec::new();
    }
    let path = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE_ANNOTATION);
    let what = format!("must match annotations[{TOPOLOGY_HINTS_ANNOTATION}] when both are specified");
    vec![field::Error::invalid(&path, text(mode), what)]
}

/// What a type asks for or excludes before anything else is looked at.
fn validate_by_type(service: &Value) -> Vec<field::Error> {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    match service_type(service) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(service) => {
            let what = format!("may not be set to 'None' for {kind} services");
            vec![field::Error::invalid(&path.child("clusterIPs").index(0), "None", what)]
        }
        "ExternalName" => {
            let fields = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter();
            let set =
                |name: &&str| if *name == "ipFamilyPolicy" { !absent(&spec[*name]) } else { !unset(&spec[*name]) };
            let mut errors: Vec<field::Error> = fields
                .filter(set)
                .map(|name| field::Error::forbidden(&path.child(name), "may not be set for ExternalName services"))
                .collect();
            let path = path.child("externalName");
            let name = text(&spec["externalName"]);
            // A trailing dot makes a DNS name absolute; the rest is what must be valid.
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.push(field::Error::required(&path, "")),
                name => {
                    let mistakes = names::dns_subdomain(name, false);
                    errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, name, what)));
                }
            }
            errors
        }
        _ => Vec::new(),
    }
}

fn validate_ports(spec: &Value, path: &Path) -> Vec<field::Error> {
    let ports = list(&spec["ports"]);
    let mut seen = BTreeSet::new();
    let path = path.child("ports");
    let mut errors = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_port_name(port, ports.len() > 1, &mut seen, &path.child("name")));
        let number = int(&port["port"]);
        let mistakes = names::port_number(number);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path.child("port"), number, what)));
        errors.extend(validate_protocol(port, &path));
        errors.extend(validate_target_port(&port["targetPort"], &path.child("targetPort")));
        errors.extend(validate_app_protocol(port, &path));
    }
    errors
}

fn validate_port_name<'a>(
    port: &'a Value,
    required: bool,
    seen: &mut BTreeSet<&'a str>,
    path: &Path,
) -> Vec<field::Error> {
    match text(&port["name"]) {
        "" if required => vec![field::Error::required(path, "")],
        "" => Vec::new(),
        name => {
            let mistakes = names::dns_label(name, false);
            let mut errors: Vec<field::Error> =
                mistakes.into_iter().map(|what| field::Error::invalid(path, name, what)).collect();
            if !seen.insert(name) {
                errors.push(field::Error::duplicate(path, name));
            }
            errors
        }
    }
}

/// The `protocol` of a port of a Service or Endpoints.
pub(crate) fn validate_protocol(port: &Value, path: &Path) -> Vec<field::Error> {
    let path = path.child("protocol");
    match text(&port["protocol"]) {
        "" => vec![field::Error::required(&path, "")],
        protocol if PROTOCOLS.contains(&protocol) => Vec::new(),
        protocol => vec![field::Error::not_supported(&path, protocol, PROTOCOLS)],
    }
}

/// The `appProtocol` of a port of a Service, Endpoints or EndpointSlice.
pub(crate) fn validate_app_protocol(port: &Value, path: &Path) -> Vec<field::Error> {
    let protocol = &port["appProtocol"];
    if absent(protocol) {
        return Vec::new();
    }
    let (protocol, path) = (text(protocol), path.child("appProtocol"));
    names::qualified_name(protocol).into_iter().map(|what| field::Error::invalid(&path, protocol, what)).collect()
}

/// A port number, or the name of a container's port.
pub(crate) fn validate_target_port(port: &Value, path: &Path) -> Vec<field::Error> {
    let mistakes = if port.is_string() { names::port_name(text(port)) } else { names::port_number(int(port)) };
    let printed = if absent(port) { json!(0) } else { port.clone() };
    mistakes.into_iter().map(|what| field::Error::invalid(path, printed.clone(), what)).collect()
}

fn validate_affinity(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (affinity, config) = (text(&spec["sessionAffinity"]), &spec["sessionAffinityConfig"]);
    let config_path = path.child("sessionAffinityConfig");
    let path = path.child("sessionAffinity");
    match affinity {
        "" => vec![field::Error::required(&path, "")],
        "None" if absent(config) => Vec::new(),
        "None" => vec![field::Error::forbidden(&config_path, "must not be set when session affinity is None")],
        "ClientIP" => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let client = config_path.child("clientIP");
            let timeout = &config["clientIP"]["timeoutSeconds"];
            if absent(config) {
                vec![field::Error::required(&config_path, WHEN)]
            } else if absent(&config["clientIP"]) {
                vec![field::Error::required(&client, WHEN)]
            } else if absent(timeout) {
                vec![field::Error::required(&client.child("timeoutSeconds"), WHEN)]
            } else if (1..=MAX_AFFINITY_SECONDS).contains(&int(timeout)) {
                Vec::new()
            } else {
                let what = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                vec![field::Error::invalid(&client.child("timeoutSeconds"), timeout.clone(), what)]
            }
        }
        other => vec![field::Error::not_supported(&path, other, &["ClientIP", "None"])],
    }
}

fn validate_external_ips(spec: &Value, old: Option<&Value>, path: &Path) -> Vec<field::Error> {
    let existing = old.map(|old| texts(&old["spec"]["externalIPs"])).unwrap_or_default();
    let path = path.child("externalIPs");
    let mut errors = Vec::new();
    for (i, ip) in texts(&spec["externalIPs"]).into_iter().enumerate() {
        let path = path.index(i);
        let mistakes = validate_legacy_ip(&path, ip, &existing);
        errors.extend(if mistakes.is_empty() { validate_endpoint_ip(&path, ip) } else { mistakes });
    }
    errors
}

fn validate_type(service: &Value) -> Vec<field::Error> {
    const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let path = Path::new("spec").child("type");
    match service_type(service) {
        "" => vec![field::Error::required(&path, "")],
        kind if TYPES.contains(&kind) => Vec::new(),
        kind => vec![field::Error::not_supported(&path, kind, TYPES)],
    }
}

fn validate_node_ports(service: &Value) -> Vec<field::Error> {
    let path = Path::new("spec").child("ports");
    let ports = list(&service["spec"]["ports"]).iter().enumerate().filter(|(_, port)| int(&port["nodePort"]) != 0);
    let mut errors = Vec::new();
    if service_type(service) == "ClusterIP" {
        let what = "may not be used when `type` is 'ClusterIP'";
        errors.extend(ports.clone().map(|(i, _)| field::Error::forbidden(&path.index(i).child("nodePort"), what)));
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports {
        if !seen.insert((text(&port["protocol"]), int(&port["nodePort"]))) {
            errors.push(field::Error::duplicate(&path.index(i).child("nodePort"), int(&port["nodePort"])));
        }
    }
    errors
}

fn validate_duplicate_ports(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, port) in list(&spec["ports"]).iter().enumerate() {
        let key = (text(&port["protocol"]), int(&port["port"]));
        if !seen.insert(key) {
            // Upstream prints its internal struct, fields in the order of its declaration.
            let printed = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                field::quoted(key.0),
                key.1
            );
            errors.push(field::Error::duplicate(&path.child("ports").index(i), Value::Null).printed_as(printed));
        }
    }
    errors
}

fn validate_source_ranges(service: &Value, old: Option<&Value>) -> Vec<field::Error> {
    let ranges = texts(&service["spec"]["loadBalancerSourceRanges"]);
    let annotation =
        |service: &Value| service["metadata"]["annotations"][SOURCE_RANGES_ANNOTATION].as_str().map(str::to_owned);
    let path = if !ranges.is_empty() {
        // The odd spelling is upstream's.
        Path::new("spec").child("LoadBalancerSourceRanges")
    } else if annotation(service).is_some() {
        Path::new("metadata").child("annotations").key(SOURCE_RANGES_ANNOTATION)
    } else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if !is_load_balancer(service) {
        errors.push(field::Error::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    if !ranges.is_empty() {
        let before = old.map(|old| texts(&old["spec"]["loadBalancerSourceRanges"])).unwrap_or_default();
        let before: Vec<&str> = before.into_iter().map(str::trim).collect();
        let ranges = ranges.into_iter().map(str::trim).enumerate();
        errors.extend(ranges.flat_map(|(i, range)| validate_legacy_cidr(&path.index(i), range, &before)));
    } else if old.is_none_or(|old| annotation(old) != annotation(service)) {
        let value = annotation(service).unwrap_or_default();
        let ranges = value.split(',').map(str::trim).filter(|_| !value.trim().is_empty());
        errors.extend(ranges.flat_map(|range| validate_legacy_cidr(&path, range, &[])));
    }
    errors
}

fn validate_load_balancer(service: &Value) -> Vec<field::Error> {
    let allocate = &service["spec"]["allocateLoadBalancerNodePorts"];
    let mut errors = Vec::new();
    if !absent(allocate) && !is_load_balancer(service) {
        let path = Path::new("spec").child("allocateLoadBalancerNodePorts");
        errors.push(field::Error::forbidden(&path, "may only be used when `type` is 'LoadBalancer'"));
    }
    if is_load_balancer(service) && absent(allocate) {
        errors.push(field::Error::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    errors.extend(validate_class(service));
    errors
}

fn validate_class(service: &Value) -> Vec<field::Error> {
    let (class, path) = (&service["spec"]["loadBalancerClass"], Path::new("spec").child("loadBalancerClass"));
    if absent(class) {
        return Vec::new();
    }
    if !is_load_balancer(service) {
        return vec![field::Error::forbidden(&path, "may only be used when `type` is 'LoadBalancer'")];
    }
    let class = text(class);
    names::qualified_name(class).into_iter().map(|what| field::Error::invalid(&path, class, what)).collect()
}

fn validate_external_traffic(service: &Value) -> Vec<field::Error> {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let policy_path = path.child("externalTrafficPolicy");
    let mut errors = Vec::new();
    match (is_externally_accessible(service), text(&spec["externalTrafficPolicy"])) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (false, policy) => errors.push(field::Error::invalid(
            &policy_path,
            policy,
            "may only be set for externally-accessible services",
        )),
        (true, "") => errors.push(field::Error::required(&policy_path, "")),
        (true, policy) => errors.push(field::Error::not_supported(&policy_path, policy, &["Cluster", "Local"])),
    }
    let port_path = path.child("healthCheckNodePort");
    match (needs_health_check(service), int(&spec["healthCheckNodePort"])) {
        (false, 0) => {}
        (false, port) => errors.push(field::Error::invalid(
            &port_path,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )),
        (true, 0) => errors.push(field::Error::required(&port_path, "")),
        (true, port) => {
            let mistakes = names::port_number(port);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&port_path, port, what)));
        }
    }
    errors
}

fn validate_internal_traffic(service: &Value) -> Vec<field::Error> {
    let (policy, path) = (&service["spec"]["internalTrafficPolicy"], Path::new("spec").child("internalTrafficPolicy"));
    let needed = matches!(service_type(service), "NodePort" | "LoadBalancer" | "ClusterIP");
    match (absent(policy), text(policy)) {
        (true, _) if needed => vec![field::Error::required(&path, "")],
        (true, _) | (false, "Cluster" | "Local") => Vec::new(),
        (false, other) => vec![field::Error::not_supported(&path, other, &["Cluster", "Local"])],
    }
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
