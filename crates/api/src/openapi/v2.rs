//! The OpenAPI v2 document of all groups, made of the v3 ones: what kubectl falls back to for kinds that v3 doesn't have.
//! Not responsible for its protobuf form (`gnostic`).

use serde_json::{Map, Value, json};

use super::{info, v3};
use crate::Resource;

const JSON: &str = "application/json";

/// One document of everything.
pub fn v2(resources: &[&Resource]) -> Value {
    let mut versions: Vec<(&str, &str)> = resources.iter().map(|r| (r.group, r.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, version) in versions {
        let document = v3(group, version, resources);
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            paths.insert(path.clone(), path_item(item));
        }
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let schema = converted(schema);
            match definitions.get_mut(name) {
                None => drop(definitions.insert(name.clone(), schema)),
                Some(known) => add_kinds(known, &schema),
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
    })
}

const KIND: &str = "x-kubernetes-group-version-kind";

/// DeleteOptions belong to each group; a kind is told once.
fn add_kinds(known: &mut Value, other: &Value) {
    let Some(kinds) = known.get_mut(KIND).and_then(Value::as_array_mut) else { return };
    for kind in other[KIND].as_array().into_iter().flatten() {
        if !kinds.contains(kind) {
            kinds.push(kind.clone());
        }
    }
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (key, value) in item.as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "parameters" => parameters(value, None),
            _ => operation(value),
        };
        out.insert(key.clone(), value);
    }
    Value::Object(out)
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.clone();
    let body = &operation["requestBody"];
    out["parameters"] = parameters(&operation["parameters"], body.is_object().then_some(body));
    if let Some(fields) = out.as_object_mut() {
        fields.remove("requestBody");
    }
    out["produces"] = json!([JSON]);
    let media = body["content"].as_object().into_iter().flatten().map(|(media, _)| media.as_str());
    out["consumes"] = if body.is_object() { media.collect() } else { json!([JSON]) };
    for response in out["responses"].as_object_mut().into_iter().flatten().map(|(_, response)| response) {
        let schema = converted(&response["content"][JSON]["schema"]);
        if let Some(fields) = response.as_object_mut() {
            fields.remove("content");
            if schema.is_object() {
                fields.insert("schema".to_owned(), schema);
            }
        }
    }
    out
}

/// In v2 the body is one of the parameters, and the others carry their type themselves.
fn parameters(parameters: &Value, body: Option<&Value>) -> Value {
    let plain = parameters.as_array().into_iter().flatten().map(|parameter| {
        let mut out = parameter.clone();
        if let Some(fields) = out.as_object_mut()
            && let Some(Value::Object(schema)) = fields.remove("schema")
        {
            fields.extend(schema);
        }
        out
    });
    let body = body.map(|body| {
        let content = body["content"].as_object().and_then(|content| content.values().next());
        let schema = content.map_or(Value::Null, |content| converted(&content["schema"]));
        json!({"in": "body", "name": "body", "required": body["required"] == true, "schema": schema})
    });
    body.into_iter().chain(plain).collect()
}

/// References lie elsewhere and aren't wrapped; alternatives of types are formats of a string.
fn converted(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (key, value) in fields {
                match key.as_str() {
                    "allOf" => out.insert("$ref".to_owned(), converted(&value[0]["$ref"])),
                    "oneOf" => out.insert("type".to_owned(), "string".into()),
                    _ => out.insert(key.clone(), converted(value)),
                };
            }
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(converted).collect(),
        Value::String(text) => text.replace("#/components/schemas/", "#/definitions/").into(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn a_kinds_patch_takes_field_validation_and_its_references_lead_somewhere() {
        let document = v2(resources());
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "Service"}));
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["type"] == "string"));
        assert!(parameters.iter().any(|p| p["in"] == "body"));
        let text = document.to_string();
        assert!(!text.contains("components/schemas") && !text.contains("oneOf") && !text.contains("allOf"));
        let spec = &document["definitions"]["io.k8s.api.core.v1.Service"]["properties"]["spec"]["$ref"];
        assert_eq!(spec, "#/definitions/io.k8s.api.core.v1.ServiceSpec");
        for target in text.split("#/definitions/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["definitions"][target].is_object(), "{target}");
        }
        let options = &document["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"][KIND];
        assert!(options.as_array().unwrap().len() > 1, "of every group");
    }
}
