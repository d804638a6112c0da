//! `metadata`: reading it from an object, and validating it on create and update. Not responsible for setting it (the
//! registry does) nor for what a kind's name may be (its strategy says).

use serde_json::Value;

use crate::field::{Error, Path};
use crate::names;
use crate::resource::Scope;

const TOTAL_ANNOTATIONS_MAX: usize = 256 * 1024;
const FIELD_MANAGER_MAX: usize = 128;
const IMMUTABLE: &str = "field is immutable";

/// The finalizer of orphaning deletion.
pub const ORPHAN_FINALIZER: &str = "orphan";
/// The finalizer of foreground deletion.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// `metadata.name`, empty when absent; the others likewise.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    object["metadata"]["deletionTimestamp"].as_str()
}

pub fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    strings(&object["metadata"]["finalizers"])
}

pub fn owner_references(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

/// The owner reference with `controller: true`.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|o| o["controller"] == true)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Every mistake in the metadata of a new object. `validate_name` is the kind's rule.
pub fn validate(object: &Value, scope: Scope, validate_name: &dyn Fn(&str, bool) -> Vec<String>) -> Vec<Error> {
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    let mut mistakes = Vec::new();
    let generate = generate_name(object);
    if !generate.is_empty() {
        let at = path.child("generateName");
        mistakes.extend(validate_name(generate, true).into_iter().map(|m| Error::invalid(&at, generate, m)));
    }
    let at = path.child("name");
    if name(object).is_empty() {
        mistakes.push(Error::required(&at, "name or generateName is required"));
    } else {
        mistakes.extend(validate_name(name(object), false).into_iter().map(|m| Error::invalid(&at, name(object), m)));
    }
    mistakes.extend(validate_namespace(namespace(object), scope, &path.child("namespace")));
    if generation(object) < 0 {
        let at = path.child("generation");
        mistakes.push(Error::invalid(&at, generation(object), "must be greater than or equal to 0"));
    }
    mistakes.extend(validate_maps(metadata, &path));
    mistakes.extend(validate_finalizers(&metadata["finalizers"], &path.child("finalizers")));
    mistakes.extend(validate_managed_fields(&metadata["managedFields"], &path.child("managedFields")));
    mistakes.extend(validate_finalizer_names(&finalizers(object), &path.child("finalizers")));
    mistakes
}

/// Every mistake in an update's metadata. The registry fills in what an updater may leave out before it asks.
pub fn validate_update(new: &Value, old: &Value) -> Vec<Error> {
    let path = Path::new("metadata");
    let (metadata, before) = (&new["metadata"], &old["metadata"]);
    let mut mistakes = Vec::new();
    if deletion_timestamp(old).is_some() {
        mistakes.extend(no_new_finalizers(&finalizers(new), &finalizers(old), &path.child("finalizers")));
    }
    if resource_version(new).is_empty() {
        mistakes.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    if generation(new) < generation(old) {
        mistakes.push(Error::invalid(&path.child("generation"), generation(new), "must not be decremented"));
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if metadata[key] != before[key] {
            let shown = match &metadata[key] {
                Value::Null if matches!(key, "name" | "namespace" | "uid") => Value::from(""),
                other => other.clone(),
            };
            mistakes.push(Error::invalid(&path.child(key), shown, IMMUTABLE));
        }
    }
    mistakes.extend(validate_maps(metadata, &path));
    if metadata["finalizers"] != before["finalizers"] {
        mistakes.extend(validate_finalizers(&metadata["finalizers"], &path.child("finalizers")));
    }
    mistakes.extend(validate_managed_fields(&metadata["managedFields"], &path.child("managedFields")));
    mistakes.extend(validate_finalizer_names(&finalizers(new), &path.child("finalizers")));
    mistakes
}

/// Annotations: keys as labels have them, any values, 256 KiB in all.
pub fn validate_annotations(annotations: &Value, path: &Path) -> Vec<Error> {
    let mut mistakes = Vec::new();
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let lower = key.to_lowercase();
        mistakes.extend(names::qualified_name(&lower).into_iter().map(|m| Error::invalid(path, key.as_str(), m)));
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > TOTAL_ANNOTATIONS_MAX {
        mistakes.push(Error::too_long(path, TOTAL_ANNOTATIONS_MAX));
    }
    mistakes
}

fn validate_namespace(namespace: &str, scope: Scope, path: &Path) -> Vec<Error> {
    match (scope, namespace) {
        (Scope::Namespaced, "") => vec![Error::required(path, "")],
        (Scope::Namespaced, name) => {
            names::dns_label(name, false).into_iter().map(|m| Error::invalid(path, name, m)).collect()
        }
        (Scope::Cluster, "") => Vec::new(),
        (Scope::Cluster, _) => vec![Error::forbidden(path, "not allowed on this type")],
    }
}

fn validate_maps(metadata: &Value, path: &Path) -> Vec<Error> {
    let mut mistakes = crate::labels::validate(&metadata["labels"], &path.child("labels"));
    mistakes.extend(validate_annotations(&metadata["annotations"], &path.child("annotations")));
    mistakes.extend(validate_owners(&metadata["ownerReferences"], &path.child("ownerReferences")));
    mistakes
}

fn validate_owners(owners: &Value, path: &Path) -> Vec<Error> {
    let mut mistakes = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |key: &str| owner[key].as_str().unwrap_or_default();
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() || text("apiVersion").matches('/').count() > 1 {
            let at = path.child("apiVersion");
            mistakes.push(Error::invalid(&at, text("apiVersion"), "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                mistakes.push(Error::invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            mistakes.push(Error::invalid(path, Value::Null, why).printed_as(owner_text(owner)));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {this}"
                    );
                    let all: Vec<String> = owners.as_array().into_iter().flatten().map(owner_text).collect();
                    let printed = format!("[{}]", all.join(","));
                    mistakes.push(Error::invalid(path, Value::Null, why).printed_as(printed));
                }
                None => controller = Some(this),
            }
        }
    }
    mistakes
}

/// An owner reference with its fields in the order in which Go has them.
fn owner_text(owner: &Value) -> String {
    let fields = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let given = fields.iter().filter(|field| owner.get(**field).is_some());
    let parts: Vec<String> = given.map(|field| format!("{field:?}:{}", owner[*field])).collect();
    format!("{{{}}}", parts.join(","))
}

/// A finalizer without a domain is one that Kubernetes itself knows.
fn validate_finalizer_names(finalizers: &[&str], path: &Path) -> Vec<Error> {
    const KNOWN: &[&str] = &["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];
    let odd = finalizers.iter().enumerate().filter(|(_, name)| !name.contains('/') && !KNOWN.contains(name));
    let why = "name is neither a standard finalizer name nor is it fully qualified";
    odd.map(|(index, name)| Error::invalid(&path.index(index), *name, why)).collect()
}

fn validate_finalizers(finalizers: &Value, path: &Path) -> Vec<Error> {
    let mut mistakes = Vec::new();
    let listed = strings(finalizers);
    for finalizer in &listed {
        mistakes.extend(names::qualified_name(finalizer).into_iter().map(|m| Error::invalid(path, *finalizer, m)));
    }
    if listed.contains(&ORPHAN_FINALIZER) && listed.contains(&FOREGROUND_FINALIZER) {
        let why = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        mistakes.push(Error::invalid(path, finalizers.clone(), why));
    }
    mistakes
}

fn no_new_finalizers(new: &[&str], old: &[&str], path: &Path) -> Vec<Error> {
    let mut added: Vec<&str> = new.iter().filter(|f| !old.contains(f)).copied().collect();
    added.sort_unstable();
    if added.is_empty() {
        return Vec::new();
    }
    let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        quoted.join(", ")
    );
    vec![Error::forbidden(path, why)]
}

fn validate_managed_fields(entries: &Value, path: &Path) -> Vec<Error> {
    let mut mistakes = Vec::new();
    for (index, entry) in entries.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            mistakes.push(Error::invalid(&path.child("operation"), text("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            mistakes.push(Error::invalid(&path.child("fieldsType"), text("fieldsType"), "must be `FieldsV1`"));
        }
        if text("manager").len() > FIELD_MANAGER_MAX {
            mistakes.push(Error::too_long(&path.child("manager"), FIELD_MANAGER_MAX));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(object: Value, scope: Scope) -> Vec<String> {
        validate(&object, scope, &names::dns_subdomain).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_object_has_no_mistakes() {
        let object = json!({"metadata": {"name": "a", "namespace": "b", "labels": {"app.io/x": "Y_1"},
            "annotations": {"Some.io/Key": "any thing"}, "finalizers": ["a.io/b"], "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]}});
        assert_eq!(messages(object.clone(), Scope::Namespaced), Vec::<String>::new());
        assert_eq!(controller(&object).unwrap()["name"], "r");
        assert_eq!((name(&object), namespace(&object), finalizers(&object)), ("a", "b", vec!["a.io/b"]));
    }

    #[test]
    fn mistakes_on_create() {
        assert_eq!(
            messages(json!({"metadata": {}}), Scope::Namespaced),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(
            messages(json!({"metadata": {"name": "a", "namespace": "b"}}), Scope::Cluster),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let huge = "x".repeat(TOTAL_ANNOTATIONS_MAX);
        let found = messages(json!({"metadata": {"name": "a", "annotations": {"k": huge}}}), Scope::Cluster);
        assert_eq!(found, ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
        let found = messages(json!({"metadata": {"name": "a", "labels": {"k": "-"}}}), Scope::Cluster);
        assert!(found[0].starts_with("metadata.labels: Invalid value: \"-\": "), "{found:?}");
        let both = json!({"metadata": {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}});
        assert!(messages(both, Scope::Cluster)[0].ends_with("cannot be both set"));
        let owners = json!({"metadata": {"name": "a", "ownerReferences": [
            {"apiVersion": "v1", "kind": "A", "name": "x", "uid": "1", "controller": true},
            {"apiVersion": "v1", "kind": "B", "name": "y", "controller": true}]}});
        let found = messages(owners, Scope::Cluster);
        assert_eq!(found[0], "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
        assert!(found[1].ends_with("references for A/x and B/y"), "{found:?}");
    }

    #[test]
    fn what_may_not_change() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z"}});
        assert!(validate_update(&old, &old).is_empty());
        let mut new = old.clone();
        new["metadata"]["uid"] = "v".into();
        new["metadata"]["generation"] = 1.into();
        new["metadata"]["resourceVersion"] = Value::Null;
        new["metadata"]["finalizers"] = json!(["a.io/b"]);
        let found: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{\"a.io/b\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ]
        );
    }
}
