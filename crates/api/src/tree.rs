//! Reading and filling objects as JSON trees, with Go's idea of an unset field. Not responsible for any kind's rules.
//!
//! An absent field, `null` and the type's zero value are the same thing for most API fields (`omitempty`), so readers
//! answer the zero value for all of them. Types are the decoder's business: a wrong one reads as unset, never panics.

use serde_json::{Map, Value};

/// The string at `value`, empty when unset.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The integer at `value`, 0 when unset.
pub fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The boolean at `value`, false when unset.
pub fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_default()
}

/// The list at `value`, empty when unset.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The strings of the list at `value`.
pub fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

/// The entries of the map at `value`, none when unset.
pub fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// Whether the map at `value` has `key`.
pub fn has_key(value: &Value, key: &str) -> bool {
    value.as_object().is_some_and(|map| map.contains_key(key))
}

/// Absent or null: what a pointer field without a value looks like.
pub fn absent(value: &Value) -> bool {
    value.is_null()
}

/// Absent, null or the type's zero value: what `omitempty` leaves out.
pub fn unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0) || number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// `value` as a map, made one when it isn't.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// The child `key`, made (as null) when absent.
pub fn child_mut<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    map_mut(value).entry(key).or_insert(Value::Null)
}

/// The child map `key`, made when absent.
pub fn child_map<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    map_mut(child_mut(value, key))
}

/// The elements of the list `key`, none when it isn't there.
pub fn elements_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Puts `default` at `key` where the field is unset.
pub fn fill(value: &mut Value, key: &str, default: impl Into<Value>) {
    if unset(&value[key]) {
        map_mut(value).insert(key.to_owned(), default.into());
    }
}

/// Puts `default` at `key` where a pointer field has no value (so an explicit 0 or false stays).
pub fn fill_absent(value: &mut Value, key: &str, default: impl Into<Value>) {
    if absent(&value[key]) {
        map_mut(value).insert(key.to_owned(), default.into());
    }
}

/// Puts `new` at `key`, or removes the field when `new` is unset.
pub fn put(value: &mut Value, key: &str, new: impl Into<Value>) {
    let new = new.into();
    if unset(&new) {
        remove(value, key);
    } else {
        map_mut(value).insert(key.to_owned(), new);
    }
}

/// Removes the field `key`.
pub fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// Makes the field `key` what it is in `from`, absence included.
pub fn copy(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) if !value.is_null() => {
            map_mut(to).insert(key.to_owned(), value.clone());
        }
        _ => remove(to, key),
    }
}

/// Equality with unset fields equal to absent ones (apimachinery's `Semantic.DeepEqual`).
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(key, value)| same(value, y.get(key).unwrap_or(&Value::Null)))
                && y.iter().all(|(key, value)| x.contains_key(key) || unset_deep(value))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        _ if unset_deep(a) => unset_deep(b),
        _ => a == b,
    }
}

/// Equality of maps whose entries are anybody's: one with an empty value is there.
pub fn same_entries(a: &Value, b: &Value) -> bool {
    entries(a).count() == entries(b).count() && entries(a).all(|(key, value)| b.get(key) == Some(value))
}

fn unset_deep(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(unset_deep),
        other => unset(other),
    }
}

/// Whether two objects differ in anything but metadata, status and their type.
pub fn same_but_metadata_and_status(a: &Value, b: &Value) -> bool {
    let skip = |key: &str| matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let keys = entries(a).chain(entries(b)).map(|(key, _)| key).filter(|key| !skip(key));
    keys.into_iter().all(|key| same(&a[key], &b[key]))
}

/// Sets `metadata.generation` of a new object to 1.
pub fn first_generation(object: &mut Value) {
    child_map(object, "metadata").insert("generation".to_owned(), 1.into());
}

/// Carries `metadata.generation` over from `old`, one higher when `changed`.
pub fn next_generation(new: &mut Value, old: &Value, changed: bool) {
    let generation = int(&old["metadata"]["generation"]) + i64::from(changed);
    put(child_mut(new, "metadata"), "generation", generation);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_with_an_empty_value_is_an_entry() {
        assert!(same_entries(&json!({}), &json!(null)) && same_entries(&json!({"a": ""}), &json!({"a": ""})));
        assert!(!same_entries(&json!({"a": ""}), &json!(null)) && !same_entries(&json!({"a": ""}), &json!({"b": ""})));
    }

    #[test]
    fn unset_and_absent_fields_are_the_same() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1, "b": null, "c": [], "d": {}, "e": "", "f": 0, "g": false}), true),
            (json!({"a": {"b": []}}), json!({}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!({"a": 1}), json!({}), false),
            (json!([1, 2]), json!([1]), false),
            (json!(null), json!([]), true),
        ];
        for (a, b, expected) in cases {
            assert_eq!(same(&a, &b), expected, "{a} {b}");
            assert_eq!(same(&b, &a), expected, "{b} {a}");
        }
    }

    #[test]
    fn filling_leaves_what_is_set() {
        let mut object = json!({"a": "x", "zero": 0});
        fill(&mut object, "a", "y");
        fill(&mut object, "b", "z");
        fill_absent(&mut object, "zero", 3);
        fill_absent(&mut object, "one", 1);
        assert_eq!(object, json!({"a": "x", "b": "z", "zero": 0, "one": 1}));
    }

    #[test]
    fn a_wrong_type_reads_as_unset() {
        let object = json!("not a map");
        assert_eq!(text(&object["a"]["b"]), "");
        assert_eq!(list(&object["a"]).len(), 0);
        let mut object = json!(7);
        put(child_mut(&mut object, "spec"), "x", 1);
        assert_eq!(object, json!({"spec": {"x": 1}}));
    }
}
