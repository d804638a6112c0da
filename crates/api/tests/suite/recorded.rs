//! What upstream's Go code answered to the same questions (`cargo xtask generate recordings` asks it again): strict
//! decoding and its errors, protobuf, strategic merge, label and field selectors.
//!
//! Left out because we differ on purpose: an order directive for two empty lists is an error there; a plus sign stays in
//! some quantities there; of several type errors in one body, they name the first in the text, we the first by name.

use std::path::Path;

use api::decode::{self, Mode};
use api::patch;
use api::schema::{self, Definition};
use api::selector::{FieldSelector, LabelSelector};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a case is JSON")).collect();
    assert!(cases.len() >= 50, "{file} has only {} cases", cases.len());
    cases
}

fn definition(case: &Value) -> &'static Definition {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    schema::of_kind(text("group"), text("version"), text("kind")).expect("a kind of the table")
}

/// Go writes null for a list that isn't there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(elements) => elements.iter().map(without_nulls).collect(),
        scalar => scalar.clone(),
    }
}

fn check(case: &Value, result: Result<Value, String>) {
    let expected = match case["answer"]["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(without_nulls(&case["answer"]["result"])),
    };
    assert_eq!(result.map(|r| without_nulls(&r)), expected, "{case}");
}

#[test]
fn bodies_decode_alike() {
    for case in cases("decode.jsonl") {
        let body = serde_json::to_vec(&case["body"]).expect("JSON");
        let decoded = decode::json(&body, definition(&case), Mode::Strict);
        check(&case, decoded.map(|d| d.object).map_err(|e| e.to_string()));
        if let Some(proto) = case["answer"]["proto"].as_str() {
            let bytes = STANDARD.decode(proto).expect("base64");
            let decoded = decode::protobuf(&bytes, definition(&case)).map(|d| d.object);
            // An empty list and no list are the same in protobuf.
            check(
                &json!({"answer": {"result": without_empty(&case["answer"]["result"])}}),
                decoded.map(|d| without_empty(&d)).map_err(|e| e.to_string()),
            );
        }
    }
}

fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, v)| !v.is_null() && !v.as_array().is_some_and(Vec::is_empty));
            kept.map(|(k, v)| (k.clone(), without_empty(v))).collect()
        }
        Value::Array(elements) => elements.iter().map(without_empty).collect(),
        scalar => scalar.clone(),
    }
}

#[test]
fn strategic_patches_merge_alike() {
    for case in cases("strategic.jsonl") {
        let merged = patch::strategic(&case["body"], &case["patch"], definition(&case));
        check(&case, merged.map_err(|e| e.to_string()));
    }
}

#[test]
fn selectors_match_alike() {
    for case in cases("selectors.jsonl") {
        let text = case["text"].as_str().expect("a selector");
        if case["op"] == "labels" {
            let selector = LabelSelector::parse(text);
            check(&case, selector.map(|s| s.matches(&case["labels"]).into()).map_err(|e| e.to_string()));
        } else {
            check(&case, FieldSelector::parse(text).map(|_| Value::Null).map_err(|e| e.to_string()));
        }
    }
}
