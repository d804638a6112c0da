//! IPAddress: one address in use, named by it, and the Service that uses it. Whoever creates it first has the address.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::address;
use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::NAME;
use crate::tree::{absent, same, text};

pub static RESOURCE: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.networking.v1.IPAddress",
    strategy: &IpAddress,
};

/// Label with the family of the address, `IPv4` or `IPv6`.
pub const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// Label with who manages the object.
pub const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
/// The manager of the addresses of Services (KEP-1880).
pub const MANAGER: &str = "ipallocator.k8s.io";

/// The object that says a Service has an address. Metadata beyond name and labels is the registry's.
pub fn for_service(address: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {FAMILY_LABEL: address::IpFamily::of(address).name(), MANAGED_BY_LABEL: MANAGER},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}

struct IpAddress;

impl Strategy for IpAddress {
    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let (parent, path) = (&object["spec"]["parentRef"], Path::new("spec").child("parentRef"));
        if absent(parent) {
            return vec![field::Error::required(&path, "")];
        }
        let mut errors = Vec::new();
        let group = text(&parent["group"]);
        if !group.is_empty() {
            let mistakes = names::dns_subdomain(group, false);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path.child("group"), group, what)));
        }
        for (name, required) in [("resource", true), ("name", true), ("namespace", false)] {
            let (value, path) = (text(&parent[name]), path.child(name));
            if required && value.is_empty() {
                errors.push(field::Error::required(&path, ""));
            }
            errors.extend(names::path_segment(value).into_iter().map(|what| field::Error::invalid(&path, value, what)));
        }
        errors
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = self.validate(new);
        let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
        if !same(new, old) {
            let path = Path::new("spec").child("parentRef");
            errors.push(field::Error::invalid(&path, new.clone(), "field is immutable"));
        }
        errors
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        address::validate_ip(&Path::default(), name).into_iter().map(|error| error.detail).collect()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("ParentRef", "What the address belongs to.")] }
    }

    fn cells(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), parent_text(&object["spec"]["parentRef"]).into()]
    }
}

fn parent_text(parent: &Value) -> String {
    if absent(parent) {
        return "<none>".to_owned();
    }
    let mut out = text(&parent["resource"]).to_owned();
    for (separator, name) in [(".", "group"), ("/", "namespace")] {
        let value = text(&parent[name]);
        if !value.is_empty() {
            out = format!("{out}{separator}{value}");
        }
        out = if name == "group" { out.to_lowercase() } else { out };
    }
    format!("{out}/{}", text(&parent["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes() {
        let cases: [(Value, &[&str]); 4] = [
            (json!({"parentRef": {"resource": "services", "namespace": "a", "name": "b"}}), &[]),
            (json!({}), &["spec.parentRef: Required value"]),
            (
                json!({"parentRef": {}}),
                &["spec.parentRef.resource: Required value", "spec.parentRef.name: Required value"],
            ),
            (
                json!({"parentRef": {"resource": "a/b", "name": ".."}}),
                &[
                    "spec.parentRef.resource: Invalid value: \"a/b\": may not contain '/'",
                    "spec.parentRef.name: Invalid value: \"..\": may not be '..'",
                ],
            ),
        ];
        for (spec, expected) in cases {
            let found: Vec<String> =
                IpAddress.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn names_are_canonical_addresses() {
        let cases: [(&str, &[&str]); 4] = [
            ("10.0.0.1", &[]),
            ("2001:db8::1", &[]),
            ("2001:DB8::1", &["must be in canonical form (\"2001:db8::1\")"]),
            ("web", &["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]),
        ];
        for (name, expected) in cases {
            assert_eq!(IpAddress.validate_name(name, false), expected);
        }
    }

    #[test]
    fn the_object_of_a_service_is_valid_and_its_parent_stays() {
        let object = for_service("10.96.0.7".parse().expect("an address"), "default", "web");
        assert!(IpAddress.validate(&object).is_empty());
        assert_eq!(IpAddress.cells(&object, jiff::Timestamp::UNIX_EPOCH)[1], "services/default/web");
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let other = for_service("10.96.0.7".parse().expect("an address"), "default", "api");
        assert!(IpAddress.validate_update(&context, &object, &object).is_empty());
        let errors = IpAddress.validate_update(&context, &other, &object);
        assert!(errors[0].to_string().starts_with("spec.parentRef: Invalid value: {"), "{}", errors[0]);
        assert!(errors[0].to_string().ends_with("}: field is immutable"));
    }
}
