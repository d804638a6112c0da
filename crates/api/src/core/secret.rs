//! Secret: as ConfigMap, with values in base64, a type that asks for certain keys, and `stringData` merged at the door.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::config_map::{MAX_SIZE, decoded_size, immutable_violations};
use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{AGE, NAME, age};
use crate::tree::{child_map, entries, fill, has_key, text};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.Secret",
    strategy: &Secret,
};

struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        fill(object, "type", "Opaque");
        merge_string_data(object);
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let path = Path::new("data");
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in entries(&object["data"]) {
            let path = path.key(key);
            errors.extend(names::config_map_key(key).into_iter().map(|what| field::Error::invalid(&path, key, what)));
            size += decoded_size(text(value));
        }
        if size > MAX_SIZE {
            errors.push(field::Error::too_long(&path, MAX_SIZE));
        }
        errors.extend(validate_type(object, &path));
        errors
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = Vec::new();
        if text(&new["type"]) != text(&old["type"]) {
            errors.push(field::Error::invalid(&Path::new("type"), text(&new["type"]), "field is immutable"));
        }
        errors.extend(immutable_violations(new, old, &["data"]));
        errors.extend(self.validate(new));
        errors
    }

    fn prepare_for_update(&self, _context: &Context, new: &mut Value, old: &Value) {
        // A client that knows no type means the one there is.
        if text(&new["type"]).is_empty() {
            fill(new, "type", text(&old["type"]));
        }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["type"]
    }

    fn field(&self, object: &Value, _label: &str) -> String {
        text(&object["type"]).to_owned()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::text("Type", "What the Secret is for; the type decides which keys it must have."),
                Column::text("Data", "How many keys there are."),
                AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let keys = entries(&object["data"]).count();
        vec![object["metadata"]["name"].clone(), text(&object["type"]).into(), keys.into(), age(object, now).into()]
    }
}

/// `stringData` is write-only: its values go into `data` in base64 and win there.
fn merge_string_data(object: &mut Value) {
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
    if plain.is_empty() {
        return;
    }
    let data = child_map(object, "data");
    for (key, value) in plain {
        data.insert(key, STANDARD.encode(text(&value)).into());
    }
}

/// The keys and annotations that well-known types ask for.
fn validate_type(object: &Value, path: &Path) -> Vec<field::Error> {
    let data = &object["data"];
    let missing = |keys: &[&str]| -> Vec<field::Error> {
        let missing = keys.iter().filter(|key| !has_key(data, key));
        missing.map(|key| field::Error::required(&path.key(key), "")).collect()
    };
    match text(&object["type"]) {
        "kubernetes.io/service-account-token" => {
            const ANNOTATION: &str = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"][ANNOTATION]).is_empty() {
                let path = Path::new("metadata").child("annotations").key(ANNOTATION);
                return vec![field::Error::required(&path, "")];
            }
            Vec::new()
        }
        "kubernetes.io/dockercfg" => validate_json(data, path, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => validate_json(data, path, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if has_key(data, "username") || has_key(data, "password") => Vec::new(),
        "kubernetes.io/basic-auth" => missing(&["username", "password"]),
        "kubernetes.io/ssh-auth" if text(&data["ssh-privatekey"]).is_empty() => {
            vec![field::Error::required(&path.key("ssh-privatekey"), "")]
        }
        "kubernetes.io/tls" => missing(&["tls.crt", "tls.key"]),
        _ => Vec::new(),
    }
}

fn validate_json(data: &Value, path: &Path, key: &str) -> Vec<field::Error> {
    let path = path.key(key);
    if !has_key(data, key) {
        return vec![field::Error::required(&path, "")];
    }
    let bytes = STANDARD.decode(text(&data[key])).unwrap_or_default();
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        Ok(_) => Vec::new(),
        Err(error) => vec![field::Error::invalid(&path, "<secret contents redacted>", error.to_string())],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_wins_and_vanishes() {
        let mut object = json!({"data": {"a": "QQ==", "b": "Qg=="}, "stringData": {"b": "new", "c": ""}});
        Secret.default(&mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "QQ==", "b": "bmV3", "c": ""}}));
    }

    #[test]
    fn types_ask_for_keys() {
        let cases: [(Value, &[&str]); 9] = [
            (json!({"type": "example.com/own"}), &[]),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (json!({"type": "kubernetes.io/dockercfg"}), &["data[.dockercfg]: Required value"]),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), &[]),
            (json!({"type": "kubernetes.io/ssh-auth"}), &["data[ssh-privatekey]: Required value"]),
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &["data[tls.key]: Required value"]),
            (json!({"type": "kubernetes.io/tls"}), &["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
        ];
        for (object, expected) in cases {
            let found: Vec<String> = Secret.validate(&object).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{object}");
        }
    }

    #[test]
    fn the_type_stays() {
        let context = Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" };
        let errors = Secret.validate_update(&context, &json!({"type": "b"}), &json!({"type": "a"}));
        assert_eq!(errors[0].to_string(), "type: Invalid value: \"b\": field is immutable");
    }
}
