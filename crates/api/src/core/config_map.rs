//! ConfigMap: keys that can be file names, at most 1 MiB in all, immutable once marked so.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{AGE, NAME, age};
use crate::tree::{entries, flag, has_key, same_entries, text};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.ConfigMap",
    strategy: &ConfigMap,
};

/// The most that the values of a ConfigMap or a Secret may hold together (core/v1 `MaxSecretSize`).
pub(super) const MAX_SIZE: usize = 1024 * 1024;

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in entries(&object["data"]) {
            let path = Path::new("data").key(key);
            errors.extend(names::config_map_key(key).into_iter().map(|what| field::Error::invalid(&path, key, what)));
            if has_key(&object["binaryData"], key) {
                errors.push(field::Error::invalid(&path, key, "duplicate of key present in binaryData"));
            }
            size += text(value).len();
        }
        for (key, value) in entries(&object["binaryData"]) {
            let path = Path::new("binaryData").key(key);
            errors.extend(names::config_map_key(key).into_iter().map(|what| field::Error::invalid(&path, key, what)));
            size += decoded_size(text(value));
        }
        if size > MAX_SIZE {
            errors.push(field::Error::too_long(&Path::new(""), MAX_SIZE));
        }
        errors
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = immutable_violations(new, old, &["data", "binaryData"]);
        errors.extend(self.validate(new));
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("Data", "How many keys there are."), AGE] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let keys = entries(&object["data"]).count() + entries(&object["binaryData"]).count();
        vec![object["metadata"]["name"].clone(), keys.into(), age(object, now).into()]
    }
}

/// What may not change once `immutable` is set.
pub(super) fn immutable_violations(new: &Value, old: &Value, fields: &[&str]) -> Vec<field::Error> {
    const TEXT: &str = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if flag(&old["immutable"]) {
        if !flag(&new["immutable"]) {
            errors.push(field::Error::forbidden(&Path::new("immutable"), TEXT));
        }
        let changed = fields.iter().filter(|name| !same_entries(&new[**name], &old[**name]));
        errors.extend(changed.map(|name| field::Error::forbidden(&Path::new(name), TEXT)));
    }
    errors
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_size(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_size() {
        let big = "x".repeat(MAX_SIZE);
        let cases = [
            (json!({"data": {"a.b": "c"}, "binaryData": {"d": "AAAA"}}), None),
            (
                json!({"data": {"a/b": "c"}}),
                Some(
                    "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', \
                     '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                     '[-._a-zA-Z0-9]+')",
                ),
            ),
            (
                json!({"data": {"a": "c"}, "binaryData": {"a": "AAAA"}}),
                Some("data[a]: Invalid value: \"a\": duplicate of key present in binaryData"),
            ),
            (json!({"data": {"a": big.clone()}}), None),
            (json!({"data": {"a": big, "b": "c"}}), Some("<nil>: Too long: may not be more than 1048576 bytes")),
        ];
        for (object, expected) in cases {
            let found: Vec<String> = ConfigMap.validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn immutable_ones_stay() {
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let cases = [
            (json!({"immutable": true, "data": {"a": "1"}, "metadata": {"labels": {"x": "y"}}}), ""),
            (json!({"data": {"a": "1"}}), "immutable: Forbidden: field is immutable when `immutable` is set"),
            (
                json!({"immutable": true, "data": {"a": "1", "b": ""}}),
                "data: Forbidden: field is immutable when `immutable` is set",
            ),
            (
                json!({"immutable": true, "data": {"a": "2"}}),
                "data: Forbidden: field is immutable when `immutable` is set",
            ),
            (
                json!({"immutable": true, "data": {"a": "1"}, "binaryData": {"b": "AA=="}}),
                "binaryData: Forbidden: field is immutable when `immutable` is set",
            ),
        ];
        for (new, expected) in cases {
            let found =
                ConfigMap.validate_update(&context, &new, &old).iter().map(ToString::to_string).collect::<String>();
            assert_eq!(found, expected);
        }
    }
}
