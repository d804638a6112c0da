//! Endpoints: the addresses behind a Service, all in one object. Deprecated since 1.33 for EndpointSlice, which a
//! controller mirrors hand-made ones to.

use std::fmt::Write as _;

use serde_json::Value;

use super::service::{validate_app_protocol, validate_protocol};
use crate::address::{ip_warnings, validate_endpoint_ip, validate_legacy_ip};
use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{AGE, NAME, age};
use crate::tree::{absent, elements_mut, fill, int, list, same, text};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.Endpoints",
    strategy: &Endpoints,
};

/// The label of Endpoints that the legacy controller wrote: it already put every address right.
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const SHOWN: usize = 3;

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in elements_mut(object, "subsets") {
            for port in elements_mut(subset, "ports") {
                fill(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let path = Path::new("subsets");
        let subsets = list(&object["subsets"]).iter().enumerate();
        subsets.flat_map(|(i, subset)| validate_subset(subset, &path.index(i))).collect()
    }

    /// What an older server accepted stays acceptable as long as it isn't touched.
    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let errors = self.validate(new);
        if same(&new["subsets"], &old["subsets"]) { Vec::new() } else { errors }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if text(&new["metadata"]["labels"][MANAGED_BY_LABEL]) == CONTROLLER {
            return warnings;
        }
        for (i, subset) in list(&new["subsets"]).iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                let path = Path::new("subsets").index(i).child(field);
                for (j, address) in list(&subset[field]).iter().enumerate() {
                    warnings.extend(ip_warnings(&path.index(j).child("ip"), text(&address["ip"])));
                }
            }
        }
        warnings
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some(DEPRECATED)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("Endpoints", "The addresses with their ports, the first three of them."), AGE] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), addresses(object).into(), age(object, now).into()]
    }
}

/// In the words upstream generates from a kind's life cycle.
const DEPRECATED: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

fn validate_subset(subset: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if list(&subset["addresses"]).is_empty() && list(&subset["notReadyAddresses"]).is_empty() {
        errors.push(field::Error::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for field in ["addresses", "notReadyAddresses"] {
        let path = path.child(field);
        let addresses = list(&subset[field]).iter().enumerate();
        errors.extend(addresses.flat_map(|(i, address)| validate_address(address, &path.index(i))));
    }
    let ports = list(&subset["ports"]);
    for (i, port) in ports.iter().enumerate() {
        errors.extend(validate_port(port, ports.len() > 1, &path.child("ports").index(i)));
    }
    errors
}

fn validate_address(address: &Value, path: &Path) -> Vec<field::Error> {
    let (ip, ip_path) = (text(&address["ip"]), path.child("ip"));
    let mut errors = validate_legacy_ip(&ip_path, ip, &[]);
    let hostname = text(&address["hostname"]);
    if !hostname.is_empty() {
        let (path, mistakes) = (path.child("hostname"), names::dns_label(hostname, false));
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, hostname, what)));
    }
    if !absent(&address["nodeName"]) {
        let (path, node) = (path.child("nodeName"), text(&address["nodeName"]));
        let mistakes = names::dns_subdomain(node, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, node, what)));
    }
    errors.extend(validate_endpoint_ip(&ip_path, ip));
    errors
}

fn validate_port(port: &Value, name_required: bool, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (name, name_path) = (text(&port["name"]), path.child("name"));
    if !name.is_empty() {
        let mistakes = names::dns_label(name, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
    } else if name_required {
        errors.push(field::Error::required(&name_path, ""));
    }
    let (number, number_path) = (int(&port["port"]), path.child("port"));
    let mistakes = names::port_number(number);
    errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&number_path, number, what)));
    errors.extend(validate_protocol(port, path));
    errors.extend(validate_app_protocol(port, path));
    errors
}

/// The first three addresses with their ports, and how many more there are.
fn addresses(object: &Value) -> String {
    let subsets = list(&object["subsets"]);
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || list(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
        let ports = list(&subset["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports.iter().map(|port| int(&port["port"])) {
            all.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }),
            );
        }
    }
    let mut shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN {
        let _ = write!(shown, " + {} more...", all.len() - SHOWN);
    }
    shown
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
