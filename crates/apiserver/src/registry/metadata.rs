//! The part of every object that belongs to the server: names, uid, timestamps, what an update may not change.
//!
//! Not responsible for what is valid in metadata (`api::meta`), nor for deletion.

use std::collections::HashSet;

use api::status::Status;
use rand::RngExt;
use serde_json::{Map, Value};

use super::{Answer, Scene, time};

/// A generated name is the base, cut to leave room, and this many random characters.
const RANDOM: usize = 5;
const BASE_MAX: usize = 63 - RANDOM;

/// Without vowels and look-alikes, as upstream chooses them (apimachinery util/rand).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What only the server sets; whatever a client sends there is replaced by the old object's.
const KEPT: &[&str] = &["name", "namespace", "resourceVersion", "creationTimestamp", "generation"];

/// What only the server sets and a client may leave out; a different value is a mistake.
const FILLED_IN: &[&str] = &["uid", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// The metadata of an object, made if it isn't there.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    api::tree::child_map(object, "metadata")
}

/// The text of a metadata field, empty when absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Puts an object into the namespace of its path, or says why it doesn't belong there.
pub fn place(scene: &Scene<'_>, object: &mut Value) -> Answer<()> {
    let given = text(object, "namespace").to_owned();
    match scene.target.namespace.as_deref().filter(|_| scene.resource().namespaced()) {
        Some(namespace) if given.is_empty() => {
            metadata(object).insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
        Some(namespace) if namespace == given => Ok(()),
        Some(_) => Err(Box::new(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ))),
        None => {
            metadata(object).remove("namespace");
            Ok(())
        }
    }
}

/// Gives a new object what only the server gives.
pub fn stamp(scene: &Scene<'_>, object: &mut Value) {
    let metadata = metadata(object);
    let server_set =
        ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"];
    server_set.iter().for_each(|field| drop(metadata.remove(*field)));
    metadata.insert("uid".to_owned(), uid().into());
    metadata.insert("creationTimestamp".to_owned(), time(scene.now).into());
}

/// Puts back what an update may not change.
pub fn carry_over(new: &mut Value, old: &Value) {
    let metadata = metadata(new);
    for field in KEPT {
        match old["metadata"].get(*field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.remove(*field)),
        }
    }
    for field in FILLED_IN {
        if metadata.get(*field).is_none_or(|value| value.is_null() || value == "")
            && let Some(value) = old["metadata"].get(*field)
        {
            metadata.insert((*field).to_owned(), value.clone());
        }
    }
    metadata.remove("selfLink");
    metadata.remove("managedFields");
}

/// Several references to one owner become one; answers what to say about it (`when` they were found, in upstream's words).
pub fn merge_owners(object: &mut Value, when: &str) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let (mut seen, mut twice): (HashSet<Value>, Vec<String>) = (HashSet::new(), Vec::new());
    owners.retain(|owner| {
        if seen.insert(owner.clone()) {
            return true;
        }
        let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
        if !twice.contains(&uid) {
            twice.push(uid);
        }
        false
    });
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// A name of its own for an object with a generateName.
pub fn generated_name(base: &str) -> String {
    let mut name: String = base.chars().take(BASE_MAX).collect();
    let mut random = rand::rng();
    name.extend((0..RANDOM).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

/// A random UUID, version 4 (RFC 9562 §5.4).
pub fn uid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The names of an object's finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    api::tree::texts(&object["metadata"]["finalizers"])
}

/// Whether two objects are the same apart from their revision.
pub fn same(a: &Value, b: &Value) -> bool {
    fn others<'a>(map: &'a Map<String, Value>, but: &'static str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        map.iter().filter(move |(key, _)| *key != but)
    }
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let metadata = match (a.get("metadata"), b.get("metadata")) {
                (Some(Value::Object(a)), Some(Value::Object(b))) => {
                    others(a, "resourceVersion").eq(others(b, "resourceVersion"))
                }
                (a, b) => a == b,
            };
            metadata && others(a, "metadata").eq(others(b, "metadata"))
        }
        (a, b) => a == b,
    }
}
