//! The three kinds of patch: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch. Pure functions from
//! object and patch to object. Not responsible for shape, defaults or validation of the result.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::go_json;
use crate::schema::Definition;
use crate::status::Status;

mod strategic;

/// More operations than this are refused.
pub const MAX_OPERATIONS: usize = 10_000;

/// All `copy` operations of a JSON patch together may add so many bytes.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Objects and lists may be nested so deep, as in everything that is parsed: all that walks a value recurses.
pub const MAX_DEPTH: usize = 127;

/// So often a patch is measured exactly whose operations seem to nest too deep.
const MAX_MEASURED: usize = 16;

/// Why a patch doesn't apply.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("error decoding patch: {words}")]
    Malformed { words: String, source: serde_json::Error },
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED_BYTES}"
    )]
    CopiesTooMuch(usize),
    #[error("the patch nests values deeper than the allowed {MAX_DEPTH}")]
    TooDeep,
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
            PatchError::TooManyOperations(_) | PatchError::CopiesTooMuch(_) | PatchError::TooDeep => {
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
    let malformed = |source: serde_json::Error| PatchError::Malformed { words: words(patch, &source), source };
    let operations: Vec<Value> = serde_json::from_slice(patch).map_err(malformed)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let operations: json_patch::Patch = serde_json::from_value(Value::Array(operations)).map_err(malformed)?;
    let mut object = original.clone();
    let mut copied = 0;
    let mut nesting = Nesting { depth: depth(&object), measured: 0 };
    for operation in operations.iter() {
        nesting.admit(operation, &object)?;
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

/// Why a text is no list of operations, in upstream's words where it has some.
fn words(patch: &[u8], error: &serde_json::Error) -> String {
    if let Some(mistake) = go_json::mistake(patch) {
        return mistake;
    }
    let kind = match serde_json::from_slice::<Value>(patch) {
        Ok(Value::Object(_)) => "object",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        _ => return error.to_string(),
    };
    format!("json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp")
}

/// How deep an object may be nested by now. Moves into what was moved nest without bound, so each operation is judged
/// before it is made: first by what the object's depth allows at most, exactly only where that is too much.
struct Nesting {
    /// No less than the object's depth.
    depth: usize,
    measured: usize,
}

impl Nesting {
    fn admit(&mut self, operation: &PatchOperation, object: &Value) -> Result<(), PatchError> {
        let (from, path) = match operation {
            PatchOperation::Add(add) => return self.grow(add.path.count() + depth(&add.value)),
            PatchOperation::Replace(replace) => return self.grow(replace.path.count() + depth(&replace.value)),
            PatchOperation::Move(it) => (&it.from, &it.path),
            PatchOperation::Copy(copy) => (&copy.from, &copy.path),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
        };
        let most = path.count() + self.depth.saturating_sub(from.count());
        if most <= MAX_DEPTH {
            return self.grow(most);
        }
        self.measured += 1;
        if self.measured > MAX_MEASURED {
            return Err(PatchError::TooDeep);
        }
        self.depth = depth(object);
        self.grow(path.count() + object.pointer(from.as_str()).map_or(0, depth))
    }

    fn grow(&mut self, depth: usize) -> Result<(), PatchError> {
        self.depth = self.depth.max(depth);
        if self.depth > MAX_DEPTH { Err(PatchError::TooDeep) } else { Ok(()) }
    }
}

/// How many objects and lists are around the innermost value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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
    fn moves_that_nest_without_bound_are_stopped() {
        let deep = (0..100).fold(json!({}), |inner, _| json!({ "k": inner }));
        let inside = format!("/b{}", "/k".repeat(100));
        let mut operations = vec![json!({"op": "add", "path": "/a", "value": {}})];
        for _ in 0..500 {
            operations.push(json!({"op": "add", "path": "/b", "value": deep}));
            operations.push(json!({"op": "move", "from": "/a", "path": format!("{inside}/a")}));
            operations.push(json!({"op": "move", "from": "/b", "path": "/a"}));
        }
        let refused = json(&json!({}), &serde_json::to_vec(&operations).unwrap()).unwrap_err();
        assert!(matches!(refused, PatchError::TooDeep), "{refused}");
        assert_eq!(refused.status().code, 413);
    }

    #[test]
    fn moves_up_and_down_are_no_depth() {
        let operations: Vec<Value> = (0..40)
            .flat_map(|_| [("/a", "/b/c/d"), ("/b/c/d", "/a")])
            .map(|(from, path)| json!({"op": "move", "from": from, "path": path}))
            .collect();
        let original = json!({"a": {"x": {}}, "b": {"c": {}}});
        assert_eq!(json(&original, &serde_json::to_vec(&operations).unwrap()).unwrap(), original);
    }

    #[test]
    fn merge_patch_deletes_by_null() {
        let patched = merge(&json!({"a": {"b": 1, "c": 2}, "l": [1]}), &json!({"a": {"b": null}, "l": [2]})).unwrap();
        assert_eq!(patched, json!({"a": {"c": 2}, "l": [2]}));
        assert!(merge(&json!({}), &json!([])).is_err());
    }
}
