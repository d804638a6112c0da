//! The three kinds of patch: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch. Pure functions from
//! object and patch to object. Not responsible for shape, defaults or validation of the result.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::schema::Definition;
use crate::status::Status;

mod strategic;

/// More operations than this are refused.
pub const MAX_OPERATIONS: usize = 10_000;

/// All `copy` operations of a JSON patch together may add so many bytes.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Why a patch doesn't apply.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("error decoding patch: {0}")]
    Malformed(#[source] serde_json::Error),
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED_BYTES}"
    )]
    CopiesTooMuch(usize),
    /// An operation of a JSON patch fails, `test` included.
    #[error("{0}")]
    Operation(#[source] json_patch::PatchError),
    #[error("expected an object as patch")]
    NotAnObject,
    #[error("unknown patch type: {} in map: {}", go_text(.directive), go_text(.patch))]
    UnknownDirective { directive: Value, patch: Value },
    #[error("map: {} does not contain declared merge key: {key}", go_text(.element))]
    NoMergeKey { element: Value, key: String },
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n", go_text(.patch), go_text(.order))]
    ElementOrder { patch: Value, order: Value },
    #[error("expected a {expected}, but received a {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("merging lists cannot yet be specified in the patch")]
    MergeInList,
}

impl PatchError {
    /// What the API answers.
    pub fn status(&self) -> Status {
        match self {
            PatchError::TooManyOperations(_) | PatchError::CopiesTooMuch(_) => {
                Status::request_entity_too_large(&self.to_string())
            }
            PatchError::Operation(_) => Status::unprocessable(&self.to_string()),
            PatchError::NoMergeKey { .. } => Status::unclassified(self.to_string()),
            _ => Status::bad_request(self.to_string()),
        }
    }
}

/// A JSON patch: a list of operations. All apply or none.
pub fn json(original: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations: Vec<Value> = serde_json::from_slice(patch).map_err(PatchError::Malformed)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let operations: json_patch::Patch =
        serde_json::from_value(Value::Array(operations)).map_err(PatchError::Malformed)?;
    let mut object = original.clone();
    let mut copied = 0;
    for operation in operations.iter() {
        if let PatchOperation::Copy(copy) = operation {
            // Copies of copies grow without bound, so each is counted before it is made.
            copied += object.pointer(copy.from.as_str()).map_or(0, |source| source.to_string().len());
            if copied > MAX_COPIED_BYTES {
                return Err(PatchError::CopiesTooMuch(copied));
            }
        }
        json_patch::patch(&mut object, std::slice::from_ref(operation)).map_err(PatchError::Operation)?;
    }
    Ok(object)
}

/// A merge patch: null deletes, objects merge, everything else replaces.
pub fn merge(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::NotAnObject);
    }
    let mut object = original.clone();
    json_patch::merge(&mut object, patch);
    Ok(object)
}

/// A strategic merge patch: as a merge patch, but lists merge by the keys that the schema table declares, and `$patch`,
/// `$retainKeys`, `$deleteFromPrimitiveList/x`, `$setElementOrder/x` direct it.
pub fn strategic(original: &Value, patch: &Value, definition: &'static Definition) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(PatchError::NotAnObject);
    };
    strategic::merge_map(original.clone(), patch.clone(), Some(definition)).map(Value::Object)
}

/// A value as Go prints it in messages: `map[a:1 b:[x y]]`.
pub fn go_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(elements) => format!("[{}]", joined(elements.iter().map(go_text).collect())),
        Value::Object(fields) => {
            format!("map[{}]", joined(fields.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patch_applies_wholly_or_not_at_all() {
        let original = json!({"a": 1});
        let patched = json(&original, br#"[{"op":"add","path":"/b","value":2},{"op":"remove","path":"/a"}]"#).unwrap();
        assert_eq!(patched, json!({"b": 2}));
        let failed = json(&original, br#"[{"op":"test","path":"/a","value":2}]"#).unwrap_err();
        assert_eq!(failed.status().code, 422);
        assert_eq!(json(&original, b"{}").unwrap_err().status().code, 400);
        assert_eq!(json(&original, br#"[{"op":"fly","path":"/a"}]"#).unwrap_err().status().code, 400);
    }

    #[test]
    fn json_patch_has_a_limit() {
        let many = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
        let refused = json(&json!({"a": 1}), &serde_json::to_vec(&many).unwrap()).unwrap_err();
        assert_eq!(refused.status().code, 413);
    }

    #[test]
    fn copies_of_copies_are_stopped() {
        let doubling: Vec<Value> =
            (0..60).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")})).collect();
        let refused = json(&json!({"a": "x".repeat(1000)}), &serde_json::to_vec(&doubling).unwrap()).unwrap_err();
        assert!(matches!(refused, PatchError::CopiesTooMuch(_)), "{refused}");
        assert_eq!(refused.status().code, 413);
    }

    #[test]
    fn merge_patch_deletes_by_null() {
        let patched = merge(&json!({"a": {"b": 1, "c": 2}, "l": [1]}), &json!({"a": {"b": null}, "l": [2]})).unwrap();
        assert_eq!(patched, json!({"a": {"c": 2}, "l": [2]}));
        assert!(merge(&json!({}), &json!([])).is_err());
    }
}
