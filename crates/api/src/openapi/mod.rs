//! OpenAPI v3 documents, one per group and version, and the v2 document of all: what `kubectl explain`, `apply`, `create`
//! and `edit` read. Not responsible for serving or caching them.
//!
//! Facts come from the schema table, descriptions from `k8s-openapi`; both are joined only while a document is made.

use serde_json::{Value, json};

use crate::Resource;

mod descriptions;
pub mod gnostic;
mod paths;
mod schemas;
mod v2;

pub use v2::v2;

/// Of which API a document is.
fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.3"})
}

/// The document of one group and version, of those `resources` that belong to it.
pub fn v3(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let mine: Vec<&Resource> = resources.iter().filter(|r| r.group == group && r.version == version).copied().collect();
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::paths(group, version, &mine),
        "components": {
            "schemas": schemas::schemas(group, version, &mine),
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "description": "Bearer token authentication",
                    "name": "authorization",
                    "in": "header"
                }
            }
        }
    })
}

/// `#/components/schemas/…`
fn reference(definition: &str) -> String {
    format!("#/components/schemas/{definition}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::resources;

    fn core() -> Value {
        v3("", "v1", resources())
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    found.insert(target.trim_start_matches("#/components/schemas/").to_owned());
                }
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(elements) => elements.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        let groups: BTreeSet<(&str, &str)> = resources().iter().map(|r| (r.group, r.version)).collect();
        for (group, version) in groups {
            let document = v3(group, version, resources());
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            for target in found {
                let schema = &document["components"]["schemas"][&target];
                assert!(schema.is_object(), "{group}/{version}: {target}");
            }
        }
    }

    #[test]
    fn fields_carry_what_patches_and_apply_need() {
        let document = core();
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"];
        let ports = &spec["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
        assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(ports["x-kubernetes-list-type"], "map");
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
        assert_eq!(ports["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.ServicePort");
        assert_eq!(spec["properties"]["selector"]["x-kubernetes-map-type"], "atomic");
        let port = &document["components"]["schemas"]["io.k8s.api.core.v1.ServicePort"];
        assert_eq!(port["required"], json!(["port"]));
        assert_eq!(port["properties"]["protocol"]["default"], "TCP");
        let volumes = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    }

    #[test]
    fn every_kind_names_itself_and_takes_field_validation() {
        for resource in resources() {
            let document = v3(resource.group, resource.version, resources());
            let schema = &document["components"]["schemas"][resource.definition];
            let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
            assert_eq!(schema["x-kubernetes-group-version-kind"], json!([kind]), "{}", resource.kind);
            assert!(schema["description"].is_string(), "{} has no description", resource.kind);
            let paths = document["paths"].as_object().unwrap();
            for method in ["patch", "post"]
                .into_iter()
                .filter(|m| resource.verbs.contains(if *m == "post" { &"create" } else { m }))
            {
                let operations = paths.values().map(|p| &p[method]);
                let own: Vec<&Value> = operations.filter(|o| o["x-kubernetes-group-version-kind"] == kind).collect();
                assert!(!own.is_empty(), "{} has no {method}", resource.kind);
                for operation in own {
                    let parameters = operation["parameters"].as_array().unwrap();
                    assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
                }
            }
        }
    }

    #[test]
    fn all_fields_of_the_core_kinds_are_described() {
        let document = core();
        for name in ["ServiceSpec", "ServicePort", "PodSpec", "Container", "NodeStatus", "EndpointSubset"] {
            let schema = &document["components"]["schemas"][format!("io.k8s.api.core.v1.{name}")];
            for (field, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{name}.{field}");
            }
        }
    }
}
