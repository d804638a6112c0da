//! Discovery: which groups, versions and resources there are, in the aggregated (v2) and the legacy form.
//!
//! Made once from the registered kinds. Not responsible for choosing the form (`http::negotiate`).

use std::collections::BTreeMap;

use api::{Resource, Subresource};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

use crate::http::body::{Body, full};
use crate::http::respond;
use crate::kinds::Kinds;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A ready answer with the hash that names its content.
struct Document {
    content: Bytes,
    etag: HeaderValue,
}

/// All discovery documents.
pub struct Discovery {
    core: Document,
    groups: Document,
    legacy_core: Value,
    legacy_groups: Value,
    by_group: BTreeMap<String, Value>,
    by_version: BTreeMap<(String, String), Value>,
}

impl Discovery {
    /// `address` is where clients reach the server, as `/api` tells it.
    pub fn new(kinds: &Kinds, address: &str) -> Self {
        let versions = kinds.group_versions();
        let (core, named): (Vec<_>, Vec<_>) = versions.iter().copied().partition(|(group, _)| group.is_empty());
        let group_objects: Vec<Value> = named.iter().map(|(group, version)| legacy_group(group, version)).collect();
        let by_group = named.iter().map(|(g, _)| (*g).to_owned()).zip(group_objects.iter().map(single_group)).collect();
        let by_version = versions
            .iter()
            .map(|(group, version)| {
                (((*group).to_owned(), (*version).to_owned()), legacy_resources(kinds, group, version))
            })
            .collect();
        Discovery {
            core: document(kinds, &core),
            groups: document(kinds, &named),
            legacy_core: json!({
                "kind": "APIVersions",
                "versions": core.iter().map(|(_, version)| *version).collect::<Vec<_>>(),
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
            legacy_groups: json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": group_objects}),
            by_group,
            by_version,
        }
    }

    /// `/api` or `/apis`, aggregated; 304 when the client has it.
    pub fn aggregated(&self, core: bool, request: &HeaderMap) -> Response<Body> {
        let document = if core { &self.core } else { &self.groups };
        let known = request.get(IF_NONE_MATCH).is_some_and(|etag| *etag == document.etag);
        let mut response = Response::new(full(if known { Bytes::new() } else { document.content.clone() }));
        *response.status_mut() = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
        headers.insert(ETAG, document.etag.clone());
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        response
    }

    /// `/api` or `/apis` as clients before 1.27 read it.
    pub fn legacy(&self, core: bool) -> Response<Body> {
        respond::json(StatusCode::OK, if core { &self.legacy_core } else { &self.legacy_groups })
    }

    pub fn group(&self, group: &str) -> Option<Response<Body>> {
        self.by_group.get(group).map(|value| respond::json(StatusCode::OK, value))
    }

    pub fn group_version(&self, group: &str, version: &str) -> Option<Response<Body>> {
        let value = self.by_version.get(&(group.to_owned(), version.to_owned()))?;
        Some(respond::json(StatusCode::OK, value))
    }
}

/// What a document's content is known by.
pub fn hash(content: &[u8]) -> String {
    Sha512_256::digest(content).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn document(kinds: &Kinds, versions: &[(&'static str, &'static str)]) -> Document {
    let items: Vec<Value> = versions
        .iter()
        .map(|(group, version)| {
            let resources: Vec<Value> = kinds.of(group, version).map(aggregated_resource).collect();
            json!({
                "metadata": if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) },
                "versions": [{"version": version, "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let content = Bytes::from(list.to_string());
    // Hexadecimal in quotes is always a valid header.
    let etag = HeaderValue::try_from(format!("\"{}\"", hash(&content))).unwrap_or(HeaderValue::from_static("\"\""));
    Document { content, etag }
}

fn aggregated_resource(resource: &'static Resource) -> Value {
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    put_list(&mut value, "shortNames", resource.short_names);
    put_list(&mut value, "categories", resource.categories);
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|subresource| {
            let (group, version, kind) = subresource.kind;
            json!({
                "subresource": subresource.name,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": subresource.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

fn legacy_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn single_group(group: &Value) -> Value {
    let mut group = group.clone();
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    group
}

fn legacy_resources(kinds: &Kinds, group: &'static str, version: &'static str) -> Value {
    let mut resources = Vec::new();
    for resource in kinds.of(group, version) {
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced(),
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        put_list(&mut value, "shortNames", resource.short_names);
        put_list(&mut value, "categories", resource.categories);
        resources.push(value);
        resources.extend(resource.subresources.iter().map(|sub| legacy_subresource(resource, sub)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn legacy_subresource(resource: &Resource, subresource: &Subresource) -> Value {
    let (group, version, kind) = subresource.kind;
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, subresource.name),
        "singularName": "",
        "namespaced": resource.namespaced(),
        "kind": kind,
        "verbs": subresource.verbs,
    });
    if (group, version) != (resource.group, resource.version) {
        value["group"] = group.into();
        value["version"] = version.into();
    }
    value
}

fn put_list(value: &mut Value, key: &str, list: &[&str]) {
    if !list.is_empty() {
        value[key] = list.into();
    }
}
