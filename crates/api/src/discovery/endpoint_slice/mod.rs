//! EndpointSlice: some of the addresses behind a Service, with their conditions and hints. Who writes them: controllers.

mod validation;

use std::fmt::Write as _;

use serde_json::Value;

use crate::address::ip_warnings;
use crate::field::{self, Path};
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{AGE, NAME, age};
use crate::tree::{
    absent, elements_mut, fill_absent, first_generation, list, map_mut, next_generation, put, remove, same,
    same_entries, text, texts,
};

pub static RESOURCE: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    strategy: &EndpointSlice,
};

/// The Service that a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Who writes the slice, and alone may change it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Upstream's two controllers: their addresses are right by construction.
const CONTROLLERS: &[&str] = &["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
const SHOWN: usize = 3;

struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in elements_mut(object, "ports") {
            fill_absent(port, "name", "");
            fill_absent(port, "protocol", "TCP");
        }
        // Neither list has `omitempty`, and upstream's storage knows no empty ones.
        for field in ["endpoints", "ports"] {
            if list(&object[field]).is_empty() && object.is_object() {
                map_mut(object).insert(field.to_owned(), Value::Null);
            }
        }
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        first_generation(object);
        drop_deprecated_topology(object, None);
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        validation::validate(object, None)
    }

    /// The generation counts what others act on: everything but metadata, and the labels.
    fn prepare_for_update(&self, _context: &Context, new: &mut Value, old: &Value) {
        let changed = ["addressType", "endpoints", "ports"].into_iter().any(|field| new[field] != old[field])
            || !same_entries(&new["metadata"]["labels"], &old["metadata"]["labels"]);
        next_generation(new, old, changed);
        drop_deprecated_topology(new, Some(old));
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = validation::validate(new, Some(old));
        let kind = text(&new["addressType"]);
        if kind != text(&old["addressType"]) {
            errors.push(field::Error::invalid(&Path::new("addressType"), kind, "field is immutable"));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() && text(&new["addressType"]) == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        if CONTROLLERS.contains(&text(&new["metadata"]["labels"][MANAGED_BY_LABEL])) {
            return warnings;
        }
        for (i, endpoint) in list(&new["endpoints"]).iter().enumerate() {
            let path = Path::new("endpoints").index(i).child("addresses");
            let addresses = texts(&endpoint["addresses"]).into_iter().enumerate();
            warnings.extend(addresses.flat_map(|(j, address)| ip_warnings(&path.index(j), address)));
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::text("AddressType", "IPv4, IPv6 or FQDN."),
                Column::text("Ports", "The ports, the first three of them."),
                Column::text("Endpoints", "The addresses, the first three of them."),
                AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let ports = list(&object["ports"]).iter().map(|port| match (&port["port"], &port["name"]) {
            (number, _) if !absent(number) => number.to_string(),
            (_, name) if !absent(name) => text(name).to_owned(),
            _ => "*".to_owned(),
        });
        let addresses = list(&object["endpoints"]).iter().flat_map(|endpoint| texts(&endpoint["addresses"]));
        vec![
            object["metadata"]["name"].clone(),
            text(&object["addressType"]).into(),
            first_of(ports.collect()).into(),
            first_of(addresses.map(str::to_owned).collect()).into(),
            age(object, now).into(),
        ]
    }
}

/// The first three, and how many more there are.
fn first_of(all: Vec<String>) -> String {
    let mut shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(",");
    if all.len() > SHOWN {
        let _ = write!(shown, " + {} more...", all.len() - SHOWN);
    } else if shown.is_empty() {
        shown.push_str("<unset>");
    }
    shown
}

/// `deprecatedTopology` is v1beta1's; v1 drops it, and takes a node's name over that the old object had there.
fn drop_deprecated_topology(new: &mut Value, old: Option<&Value>) {
    if old.is_some_and(|old| same(&new["endpoints"], &old["endpoints"])) {
        return;
    }
    let nodes: Vec<String> = old
        .map(|old| list(&old["endpoints"]).iter().map(|e| text(&e["deprecatedTopology"][HOSTNAME_LABEL])))
        .into_iter()
        .flatten()
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
        .collect();
    for endpoint in elements_mut(new, "endpoints") {
        let node = text(&endpoint["deprecatedTopology"][HOSTNAME_LABEL]).to_owned();
        if absent(&endpoint["nodeName"]) && nodes.contains(&node) {
            put(endpoint, "nodeName", node);
        }
        remove(endpoint, "deprecatedTopology");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context() -> Context {
        Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" }
    }

    #[test]
    fn ports_have_a_name_and_a_protocol() {
        let mut object = json!({"ports": [{"port": 80}, {"name": "dns", "protocol": "UDP"}]});
        EndpointSlice.default(&mut object);
        let expected = json!([{"name": "", "port": 80, "protocol": "TCP"}, {"name": "dns", "protocol": "UDP"}]);
        assert_eq!(object["ports"], expected);
    }

    #[test]
    fn the_generation_counts_changes_that_matter() {
        let mut old = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
        EndpointSlice.prepare_for_create(&context(), &mut old);
        assert_eq!(old["metadata"]["generation"], 1);
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let mut annotated = old.clone();
        annotated["metadata"]["annotations"] = json!({"a": "b"});
        let mut changed = old.clone();
        changed["endpoints"][0]["conditions"] = json!({"ready": false});
        changed["endpoints"][0]["addresses"] = json!(["10.0.0.2"]);
        let mut aimed = old.clone();
        aimed["endpoints"][0]["targetRef"] = json!({});
        for (mut new, expected) in [(old.clone(), 1), (annotated, 1), (labelled, 2), (changed, 2), (aimed, 2)] {
            EndpointSlice.prepare_for_update(&context(), &mut new, &old);
            assert_eq!(new["metadata"]["generation"], expected, "{new}");
        }
    }

    #[test]
    fn the_deprecated_topology_goes() {
        let with = |topology: &str| json!({"endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"kubernetes.io/hostname": topology}}]});
        let mut new = with("a");
        EndpointSlice.prepare_for_create(&context(), &mut new);
        assert_eq!(new["endpoints"], json!([{"addresses": ["10.0.0.1"]}]));
        let mut new = with("a");
        new["endpoints"][0]["addresses"] = json!(["10.0.0.2"]);
        EndpointSlice.prepare_for_update(&context(), &mut new, &with("a"));
        assert_eq!(new["endpoints"], json!([{"addresses": ["10.0.0.2"], "nodeName": "a"}]));
    }

    #[test]
    fn warnings() {
        let mut object = json!({"addressType": "IPv6", "endpoints": [{"addresses": ["FD00::1"]}]});
        let odd =
            "endpoints[0].addresses[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
        assert_eq!(EndpointSlice.warnings(&object, None), [odd]);
        object["metadata"] = json!({"labels": {MANAGED_BY_LABEL: "endpointslice-controller.k8s.io"}});
        assert_eq!(EndpointSlice.warnings(&object, None), Vec::<String>::new());
        let names = json!({"addressType": "FQDN"});
        assert_eq!(EndpointSlice.warnings(&names, None), ["spec.addressType: FQDN endpoints are deprecated"]);
        assert_eq!(EndpointSlice.warnings(&names, Some(&names)), Vec::<String>::new());
    }

    #[test]
    fn rows() {
        let address = |n: u8| json!({"addresses": [format!("10.0.0.{n}")]});
        let cases = [
            (json!({}), "<unset>", "<unset>"),
            (json!({"ports": [{"port": 80}, {"name": "x"}, {}], "endpoints": [address(1)]}), "80,x,*", "10.0.0.1"),
            (
                json!({"ports": [{"port": 1}, {"port": 2}, {"port": 3}, {"port": 4}],
                       "endpoints": [address(1), address(2), address(3), address(4), address(5)]}),
                "1,2,3 + 1 more...",
                "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more...",
            ),
        ];
        for (object, ports, endpoints) in cases {
            let cells = EndpointSlice.cells(&object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!((&cells[2], &cells[3]), (&json!(ports), &json!(endpoints)));
        }
    }
}
