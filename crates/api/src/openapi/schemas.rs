//! `components.schemas`: the definitions that a group-version's kinds reach. Not responsible for paths.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::reference;
use crate::Resource;
use crate::schema::{self, Definition, Field, Kind, ListType};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// Says which kinds a schema describes.
const KIND: &str = "x-kubernetes-group-version-kind";

/// Types whose schema isn't an object of fields: name, schema without its description, description.
fn scalars() -> [(&'static str, Value, &'static str); 8] {
    let any = json!({"type": "object"});
    let date_time = json!({"type": "string", "format": "date-time"});
    [
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            "A number or a name.",
        ),
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "An amount with a decimal (m, k, M, G …) or binary (Ki, Mi, Gi …) suffix, or with an exponent.",
        ),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", date_time.clone(), "An RFC 3339 timestamp in whole seconds."),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", date_time, "An RFC 3339 timestamp in microseconds."),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", any.clone(), "A set of fields, as a tree of paths."),
        ("io.k8s.apimachinery.pkg.runtime.RawExtension", any.clone(), "An object of any kind."),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", any.clone(), "A patch in one of the accepted formats."),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", any, "The resources of a group and version."),
    ]
}

pub(super) fn schemas(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let descriptions = Descriptions::load();
    let mut out = Map::new();
    let mut pending: Vec<String> =
        ["DeleteOptions", "Status", "Patch"].iter().map(|name| format!("{META}.{name}")).collect();
    for resource in resources {
        pending.push(resource.definition.to_owned());
        pending.push(format!("{}List", resource.definition));
        for subresource in resource.subresources {
            let (group, version, kind) = subresource.kind;
            pending.extend(schema::of_kind(group, version, kind).map(|d| d.name.clone()));
        }
    }
    let mut seen = BTreeSet::new();
    let scalars = scalars();
    while let Some(name) = pending.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if let Some((_, schema, own)) = scalars.iter().find(|(scalar, _, _)| *scalar == name) {
            let mut schema = schema.clone();
            schema["description"] = descriptions.of_type(&name).unwrap_or(own).into();
            out.insert(name, schema);
        } else if let Some(definition) = schema::definition(&name) {
            let schema = object(definition, &descriptions, &mut pending);
            out.insert(name, schema);
        }
    }
    out[&format!("{META}.Status")][KIND] = json!([{"group": "", "version": "v1", "kind": "Status"}]);
    out[&format!("{META}.DeleteOptions")][KIND] =
        json!([{"group": group, "version": version, "kind": "DeleteOptions"}]);
    for resource in resources {
        mark(&mut out, resource.definition, resource, "");
        mark(&mut out, &format!("{}List", resource.definition), resource, "List");
        for subresource in resource.subresources {
            let (group, version, kind) = subresource.kind;
            if let Some(definition) = schema::of_kind(group, version, kind)
                && definition.name != resource.definition
            {
                let kinds = json!([{"group": group, "version": version, "kind": kind}]);
                out[&definition.name][KIND] = kinds;
            }
        }
    }
    Value::Object(out)
}

/// Says which kind a schema is.
fn mark(out: &mut Map<String, Value>, name: &str, resource: &Resource, suffix: &str) {
    if let Some(schema) = out.get_mut(name) {
        let kind = format!("{}{suffix}", resource.kind);
        schema[KIND] = json!([{"group": resource.group, "version": resource.version, "kind": kind}]);
    }
}

fn object(definition: &'static Definition, descriptions: &Descriptions, pending: &mut Vec<String>) -> Value {
    let mut properties = Map::new();
    for field in &definition.fields {
        let mut property = property(field, pending);
        if let Some(text) = described(definition, field, descriptions) {
            property["description"] = text.into();
        }
        properties.insert(field.json_name.clone(), property);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    let required: Vec<&str> = definition.fields.iter().filter(|f| f.required).map(|f| f.json_name.as_str()).collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if definition.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let own = || definition.short_name().strip_suffix("List").map(|kind| format!("A list of {kind} objects."));
    if let Some(text) = descriptions.of_type(&definition.name).map(str::to_owned).or_else(own) {
        schema["description"] = text.into();
    }
    schema
}

/// Lists aren't described by `k8s-openapi`, but their four fields are the same everywhere.
fn described<'d>(definition: &Definition, field: &Field, descriptions: &'d Descriptions) -> Option<&'d str> {
    descriptions.of_field(&definition.name, &field.json_name).or(match field.json_name.as_str() {
        "apiVersion" | "kind" => descriptions.of_field("io.k8s.api.core.v1.Service", &field.json_name),
        "metadata" => Some("Standard list metadata."),
        "items" => Some("The objects listed."),
        _ => None,
    })
}

fn property(field: &Field, pending: &mut Vec<String>) -> Value {
    let mut property = of_kind(&field.kind, pending);
    let zero = if field.pointer { None } else { zero(&field.kind, field.omitempty) };
    if let Some(default) = field.default.clone().or(zero) {
        property["default"] = default;
    }
    if !field.enumeration.is_empty() {
        let place = if property["items"].is_object() { &mut property["items"] } else { &mut property };
        place["enum"] = field.enumeration.iter().map(String::as_str).collect();
    }
    if let Some(list_type) = field.list_type {
        property["x-kubernetes-list-type"] = match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        }
        .into();
    }
    if !field.list_map_keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = field.list_map_keys.iter().map(String::as_str).collect();
    }
    if field.map_atomic {
        property["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(key) = &field.patch_merge_key {
        property["x-kubernetes-patch-merge-key"] = key.as_str().into();
    }
    if !field.patch_strategy.is_empty() {
        property["x-kubernetes-patch-strategy"] = field.patch_strategy.join(",").into();
    }
    property
}

fn of_kind(kind: &Kind, pending: &mut Vec<String>) -> Value {
    let mut refer = |name: &str| {
        pending.push(name.to_owned());
        json!({"allOf": [{"$ref": reference(name)}]})
    };
    match kind {
        Kind::String => json!({"type": "string"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 => json!({"type": "integer", "format": "int32"}),
        Kind::Int64 => json!({"type": "integer", "format": "int64"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Quantity => refer("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Kind::IntOrString => refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Kind::Time => refer("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Kind::MicroTime => refer("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Kind::FieldsV1 => refer("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
        Kind::RawExtension => refer("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Kind::Message(name) => refer(name),
        Kind::Items => json!({"type": "array", "items": {"type": "string", "default": ""}}),
        Kind::List(element) => json!({"type": "array", "items": element_of(element, pending)}),
        Kind::Map(element) => json!({"type": "object", "additionalProperties": element_of(element, pending)}),
    }
}

fn element_of(element: &Kind, pending: &mut Vec<String>) -> Value {
    let mut schema = of_kind(element, pending);
    if let Some(zero) = zero(element, false) {
        schema["default"] = zero;
    }
    schema
}

/// The default that a type has when Go never leaves it out.
fn zero(kind: &Kind, omitempty: bool) -> Option<Value> {
    match kind {
        Kind::Message(_) => Some(json!({})),
        Kind::String if !omitempty => Some("".into()),
        Kind::Bool if !omitempty => Some(false.into()),
        Kind::Int32 | Kind::Int64 if !omitempty => Some(0.into()),
        _ => None,
    }
}
