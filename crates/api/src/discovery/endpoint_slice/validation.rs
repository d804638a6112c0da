//! What an EndpointSlice may hold, with upstream's paths and words.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::address::{is_ipv4, is_ipv6, validate_endpoint_ip, validate_ip, validate_legacy_ip};
use crate::core::service::{PROTOCOLS, validate_app_protocol};
use crate::field::{self, Path};
use crate::labels;
use crate::names;
use crate::tree::{absent, entries, list, text, texts};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

/// Every mistake. Endpoints that an older server accepted stay acceptable as long as they aren't touched.
pub(super) fn validate(slice: &Value, old: Option<&Value>) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (kind, path) = (text(&slice["addressType"]), Path::new("addressType"));
    if kind.is_empty() {
        errors.push(field::Error::required(&path, ""));
    } else if !ADDRESS_TYPES.contains(&kind) {
        errors.push(field::Error::not_supported(&path, kind, ADDRESS_TYPES));
    }
    errors.extend(validate_ports(slice));
    let endpoints = validate_endpoints(slice, kind);
    if !old.is_some_and(|old| slice["endpoints"] == old["endpoints"]) {
        errors.extend(endpoints);
    }
    errors
}

fn validate_endpoints(slice: &Value, kind: &str) -> Vec<field::Error> {
    let path = Path::new("endpoints");
    let endpoints = list(&slice["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![field::Error::too_many(&path, endpoints.len(), MAX_ENDPOINTS)];
    }
    endpoints.iter().enumerate().flat_map(|(i, endpoint)| validate_endpoint(endpoint, kind, &path.index(i))).collect()
}

fn validate_endpoint(endpoint: &Value, kind: &str, path: &Path) -> Vec<field::Error> {
    let mut errors = validate_addresses(endpoint, kind, &path.child("addresses"));
    if !absent(&endpoint["nodeName"]) {
        let (path, node) = (path.child("nodeName"), text(&endpoint["nodeName"]));
        let mistakes = names::dns_subdomain(node, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, node, what)));
    }
    let topology = &endpoint["deprecatedTopology"];
    let topology_path = path.child("deprecatedTopology");
    let labels = entries(topology).count();
    if labels > MAX_TOPOLOGY_LABELS {
        errors.push(field::Error::too_many(&topology_path, labels, MAX_TOPOLOGY_LABELS));
    }
    errors.extend(labels::validate(topology, &topology_path));
    if !absent(&endpoint["hostname"]) {
        let (path, hostname) = (path.child("hostname"), text(&endpoint["hostname"]));
        let mistakes = names::dns_label(hostname, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, hostname, what)));
    }
    errors.extend(validate_hints(&endpoint["hints"], &path.child("hints")));
    errors
}

fn validate_addresses(endpoint: &Value, kind: &str, path: &Path) -> Vec<field::Error> {
    let addresses = texts(&endpoint["addresses"]);
    let mut errors = Vec::new();
    if addresses.is_empty() {
        errors.push(field::Error::required(path, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        errors.push(field::Error::too_many(path, addresses.len(), MAX_ADDRESSES));
    }
    for (i, address) in addresses.into_iter().enumerate() {
        let at = path.index(i);
        let (mistakes, right_family, what) = match kind {
            "IPv4" => (validate_legacy_ip(&at, address, &[]), is_ipv4(address), "must be an IPv4 address"),
            "IPv6" => (validate_ip(&at, address), is_ipv6(address), "must be an IPv6 address"),
            "FQDN" => {
                errors.extend(validate_domain(&at, address));
                continue;
            }
            _ => continue,
        };
        if !mistakes.is_empty() {
            errors.extend(mistakes);
            continue;
        }
        if !right_family {
            errors.push(field::Error::invalid(path, address, what));
        }
        errors.extend(validate_endpoint_ip(&at, address));
    }
    errors
}

/// A domain name of two labels at least, a trailing dot allowed.
fn validate_domain(path: &Path, name: &str) -> Vec<field::Error> {
    if name.is_empty() {
        return vec![field::Error::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let mistakes = names::dns_subdomain(name, false);
    if !mistakes.is_empty() {
        return vec![field::Error::invalid(path, name, mistakes.join(","))];
    }
    if !name.contains('.') {
        let what = "should be a domain with at least two segments separated by dots";
        return vec![field::Error::invalid(path, name, what)];
    }
    let bad = name.split('.').map(|label| (label, names::dns_label(label, false))).find(|(_, what)| !what.is_empty());
    bad.map(|(label, what)| field::Error::invalid(path, label, what.join(","))).into_iter().collect()
}

fn validate_ports(slice: &Value) -> Vec<field::Error> {
    let path = Path::new("ports");
    let ports = list(&slice["ports"]);
    if ports.len() > MAX_PORTS {
        return vec![field::Error::too_many(&path, ports.len(), MAX_PORTS)];
    }
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let (name, name_path) = (text(&port["name"]), path.child("name"));
        if !name.is_empty() {
            let mistakes = names::dns_label(name, false);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
        }
        if !seen.insert(name) {
            errors.push(field::Error::duplicate(&name_path, name));
        }
        let protocol = &port["protocol"];
        if absent(protocol) {
            errors.push(field::Error::required(&path.child("protocol"), ""));
        } else if !PROTOCOLS.contains(&text(protocol)) {
            errors.push(field::Error::not_supported(&path.child("protocol"), protocol.clone(), PROTOCOLS));
        }
        errors.extend(validate_app_protocol(port, &path));
    }
    errors
}

fn validate_hints(hints: &Value, path: &Path) -> Vec<field::Error> {
    type Rule = fn(&str) -> Vec<String>;
    let kinds: [(&str, Rule); 2] =
        [("forZones", names::label_value), ("forNodes", |name| names::dns_subdomain(name, false))];
    let mut errors = Vec::new();
    for (field, rule) in kinds {
        let path = path.child(field);
        let hints = list(&hints[field]);
        if hints.len() > MAX_HINTS {
            errors.push(field::Error::too_many(&path, hints.len(), MAX_HINTS));
            return errors;
        }
        let mut seen = BTreeSet::new();
        for (i, name) in hints.iter().map(|hint| text(&hint["name"])).enumerate() {
            let path = path.index(i).child("name");
            if !seen.insert(name) {
                errors.push(field::Error::duplicate(&path, name));
            }
            errors.extend(rule(name).into_iter().map(|what| field::Error::invalid(&path, name, what)));
        }
    }
    errors
}

#[cfg(test)]
#[path = "validation_tests.rs"]
mod tests;
