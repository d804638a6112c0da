//! `paths`: which operations there are on which resource. kubectl asks it one thing: does the PATCH of this kind take
//! `fieldValidation`? Not responsible for schemas.

use serde_json::{Map, Value, json};

use super::reference;
use crate::schema;
use crate::{Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const JSON: &str = "application/json";
const PATCH_TYPES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

pub(super) fn paths(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Map::new();
    for resource in resources {
        let place = Place { resource, base: base(&root, resource) };
        if resource.namespaced() && resource.verbs.contains(&"list") {
            let operations = json!({"get": place.operation("list", "")});
            paths.insert(format!("{root}/{}", resource.plural), operations);
        }
        paths.insert(
            place.base.clone(),
            place.item(&[("get", "list"), ("post", "create"), ("delete", "deletecollection")], false),
        );
        let named = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        paths.insert(format!("{}/{{name}}", place.base), place.item(&named, true));
        for subresource in resource.subresources {
            paths.insert(format!("{}/{{name}}/{}", place.base, subresource.name), place.subresource(subresource));
        }
    }
    Value::Object(paths)
}

fn base(root: &str, resource: &Resource) -> String {
    let namespace = if resource.namespaced() { "/namespaces/{namespace}" } else { "" };
    format!("{root}{namespace}/{}", resource.plural)
}

struct Place<'r> {
    resource: &'r Resource,
    base: String,
}

impl Place<'_> {
    /// The operations of one path: those of `methods` (HTTP method, verb) that the resource has.
    fn item(&self, methods: &[(&str, &str)], named: bool) -> Value {
        let mut item = Map::new();
        for (method, verb) in methods.iter().filter(|(_, verb)| self.resource.verbs.contains(verb)) {
            item.insert((*method).to_owned(), self.operation(verb, ""));
        }
        item.insert("parameters".to_owned(), self.path_parameters(named));
        Value::Object(item)
    }

    fn subresource(&self, subresource: &Subresource) -> Value {
        let mut item = Map::new();
        let methods = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        for (method, verb) in methods.iter().filter(|(_, verb)| subresource.verbs.contains(verb)) {
            let (group, version, kind) = subresource.kind;
            let mut operation = self.operation(verb, subresource.name);
            if !kind.is_empty() {
                operation["x-kubernetes-group-version-kind"] =
                    json!({"group": group, "version": version, "kind": kind});
            }
            if let Some(definition) = schema::of_kind(group, version, kind) {
                set_body(&mut operation, verb, &definition.name);
            }
            item.insert((*method).to_owned(), operation);
        }
        item.insert("parameters".to_owned(), self.path_parameters(true));
        Value::Object(item)
    }

    fn path_parameters(&self, named: bool) -> Value {
        let parameter = |name: &str, what: String| {
            json!({"name": name, "in": "path", "required": true, "description": what,
                   "schema": {"type": "string", "uniqueItems": true}})
        };
        let mut parameters = Vec::new();
        if named {
            parameters.push(parameter("name", format!("name of the {}", self.resource.kind)));
        }
        if self.resource.namespaced() {
            parameters.push(parameter("namespace", "namespace to look in".to_owned()));
        }
        Value::Array(parameters)
    }

    fn operation(&self, verb: &str, subresource: &str) -> Value {
        let resource = self.resource;
        let mut operation = json!({
            "operationId": operation_id(resource, verb, subresource),
            "tags": [tag(resource)],
            "description": format!("{verb} {}", [resource.plural, subresource].join("/").trim_end_matches('/')),
            "parameters": query_parameters(verb),
            "responses": {"401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind":
                {"group": resource.group, "version": resource.version, "kind": resource.kind},
        });
        let answer = match verb {
            "list" => format!("{}List", resource.definition),
            _ => resource.definition.to_owned(),
        };
        set_body(&mut operation, verb, &answer);
        operation
    }
}

/// Request body and answers.
fn set_body(operation: &mut Value, verb: &str, definition: &str) {
    let content = |name: &str| json!({JSON: {"schema": {"$ref": reference(name)}}});
    let answer = match verb {
        "delete" | "deletecollection" => format!("{META}.Status"),
        _ => definition.to_owned(),
    };
    operation["responses"]["200"] = json!({"description": "OK", "content": content(&answer)});
    if matches!(verb, "create" | "update" | "patch") {
        operation["responses"]["201"] = json!({"description": "Created", "content": content(&answer)});
    }
    match verb {
        "create" | "update" => {
            operation["requestBody"] =
                json!({"required": true, "content": {"*/*": {"schema": {"$ref": reference(definition)}}}});
        }
        "patch" => {
            let schema = json!({"schema": {"$ref": reference(&format!("{META}.Patch"))}});
            let content: Map<String, Value> =
                PATCH_TYPES.iter().map(|media| ((*media).to_owned(), schema.clone())).collect();
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        "delete" | "deletecollection" => {
            let options = reference(&format!("{META}.DeleteOptions"));
            operation["requestBody"] = json!({"content": {"*/*": {"schema": {"$ref": options}}}});
        }
        _ => {}
    }
}

fn query_parameters(verb: &str) -> Value {
    let query = |(name, kind, what): &(&str, &str, &str)| json!({"name": name, "in": "query", "description": what, "schema": {"type": kind, "uniqueItems": true}});
    const DRY_RUN: (&str, &str, &str) = ("dryRun", "string", "`All`: do everything but store the result");
    const LIST: &[(&str, &str, &str)] = &[
        ("allowWatchBookmarks", "boolean", "send bookmarks with watch events"),
        ("continue", "string", "where the next page begins, from the last answer"),
        ("fieldSelector", "string", "only objects whose fields are so"),
        ("labelSelector", "string", "only objects whose labels are so"),
        ("limit", "integer", "at most so many objects in one answer"),
        ("resourceVersion", "string", "how new the answer must be"),
        ("resourceVersionMatch", "string", "how resourceVersion is meant: NotOlderThan or Exact"),
        ("sendInitialEvents", "boolean", "begin a watch with what there is, then a bookmark"),
        ("timeoutSeconds", "integer", "end after so many seconds"),
        ("watch", "boolean", "follow changes instead of listing"),
    ];
    const WRITE: &[(&str, &str, &str)] = &[
        DRY_RUN,
        ("fieldManager", "string", "who writes these fields"),
        ("fieldValidation", "string", "what to do about unknown and duplicate fields: Ignore, Warn or Strict"),
    ];
    const DELETE: &[(&str, &str, &str)] = &[
        DRY_RUN,
        ("gracePeriodSeconds", "integer", "seconds before the object ends"),
        ("orphanDependents", "boolean", "deprecated: use propagationPolicy"),
        ("propagationPolicy", "string", "what becomes of dependents: Orphan, Background or Foreground"),
    ];
    let mut parameters = vec![query(&("pretty", "string", "indent the answer"))];
    parameters.extend(match verb {
        "list" => LIST.iter().map(query).collect::<Vec<_>>(),
        "create" | "update" => WRITE.iter().map(query).collect(),
        "patch" => WRITE
            .iter()
            .chain([&("force", "boolean", "take fields from other managers when applying")])
            .map(query)
            .collect(),
        "delete" => DELETE.iter().map(query).collect(),
        "deletecollection" => LIST.iter().take(7).chain(DELETE).map(query).collect(),
        _ => Vec::new(),
    });
    Value::Array(parameters)
}

/// `x-kubernetes-action`: the HTTP side of a verb.
fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

/// `core_v1`, `discovery_v1`
fn tag(resource: &Resource) -> String {
    format!("{}_{}", group_word(resource.group), resource.version)
}

fn group_word(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(word) => word,
    }
}

/// `listCoreV1NamespacedService`
fn operation_id(resource: &Resource, verb: &str, subresource: &str) -> String {
    let verb = match verb {
        "get" => "read",
        "update" => "replace",
        other => other,
    };
    let namespaced = if resource.namespaced() { "Namespaced" } else { "" };
    let group = capitalised(group_word(resource.group));
    let version = capitalised(resource.version);
    format!("{verb}{group}{version}{namespaced}{}{}", resource.kind, capitalised(subresource))
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
