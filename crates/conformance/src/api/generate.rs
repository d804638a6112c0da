//! Draws cases from pools: an object that is good, and values, good and bad, for its fields.
//!
//! Every value is drawn for a creation, an update and a patch of each kind before any is drawn twice.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cases::Case;
use crate::step::{Content, Step, set};

const POOLS: &[(&str, &str)] = &[
    ("service", include_str!("../../pools/service.json")),
    ("pod", include_str!("../../pools/pod.json")),
    ("deployment", include_str!("../../pools/deployment.json")),
    ("endpoints", include_str!("../../pools/endpoints.json")),
    ("endpointslice", include_str!("../../pools/endpointslice.json")),
    ("configmap", include_str!("../../pools/configmap.json")),
    ("namespace", include_str!("../../pools/namespace.json")),
];
const METADATA: &str = include_str!("../../pools/metadata.json");

/// What may be done with one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    at: String,
    bases: Vec<Value>,
    /// Values by pointer.
    values: Map<String, Value>,
    #[serde(default)]
    status: Map<String, Value>,
    #[serde(default)]
    scale: Map<String, Value>,
}

/// One value for one field.
type Edit = (String, Value);

/// `count` cases, the same for the same seed.
#[allow(clippy::expect_used, reason = "the pools are part of the program")]
pub fn cases(seed: u64, count: usize) -> Vec<Case> {
    let metadata: Value = serde_json::from_str(METADATA).expect("the pool of metadata is JSON");
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    for (kind, text) in POOLS {
        let mut pool: Pool = serde_json::from_str(text).unwrap_or_else(|e| panic!("the pool of {kind}: {e}"));
        for (pointer, values) in metadata["values"].as_object().into_iter().flatten() {
            pool.values.entry(pointer.clone()).or_insert_with(|| values.clone());
        }
        all.extend(of_pool(kind, &pool, &mut random));
    }
    all.shuffle(&mut random);
    while all.len() < count {
        let (kind, text) = POOLS.choose(&mut random).expect("there are pools");
        let pool: Pool = serde_json::from_str(text).unwrap_or_else(|e| panic!("the pool of {kind}: {e}"));
        all.push((kind, mixed(&pool, &mut random)));
    }
    all.truncate(count);
    let numbered = all.into_iter().enumerate();
    numbered.map(|(number, (kind, draw))| draw.case(kind, &format!("c{number}"))).collect()
}

/// A case before it has a name.
struct Draw {
    at: String,
    base: Value,
    how: How,
    query: &'static str,
}

enum How {
    /// Create it with edits.
    Create(Vec<Edit>),
    /// Create it, then put it with edits.
    Update(Vec<Edit>),
    /// Create it, then patch it so.
    Patch(&'static str, Vec<Edit>),
    /// Create it, then change a subresource.
    Subresource(&'static str, bool, Edit),
    /// Create it, then delete it with options.
    Delete(Value),
}

/// Every value once for each way in which it can arrive.
fn of_pool(kind: &'static str, pool: &Pool, random: &mut StdRng) -> Vec<(&'static str, Draw)> {
    let mut draws = Vec::new();
    for edit in edits(&pool.values) {
        for base in &pool.bases {
            let query = *["", "", "fieldValidation=Strict", "fieldValidation=Ignore", "dryRun=All"]
                .choose(random)
                .unwrap_or(&"");
            let how = match random.random_range(0..6) {
                0 | 1 => How::Create(vec![edit.clone()]),
                2 | 3 => How::Update(vec![edit.clone()]),
                _ => How::Patch(
                    ["merge", "strategic", "json"].choose(random).copied().unwrap_or("merge"),
                    vec![edit.clone()],
                ),
            };
            draws.push((kind, Draw { at: pool.at.clone(), base: base.clone(), how, query }));
        }
    }
    for (subresource, values) in [("status", &pool.status), ("scale", &pool.scale)] {
        for edit in edits(values) {
            for patch in [false, true] {
                let base = pool.bases.choose(random).cloned().unwrap_or_default();
                let how = How::Subresource(subresource, patch, edit.clone());
                draws.push((kind, Draw { at: pool.at.clone(), base, how, query: "" }));
            }
        }
    }
    for options in DELETE_OPTIONS {
        let options = serde_json::from_str(options).unwrap_or_default();
        let base = pool.bases.choose(random).cloned().unwrap_or_default();
        draws.push((kind, Draw { at: pool.at.clone(), base, how: How::Delete(options), query: "" }));
    }
    draws
}

const DELETE_OPTIONS: &[&str] = &[
    "null",
    "{}",
    r#"{"propagationPolicy": "Foreground"}"#,
    r#"{"propagationPolicy": "Orphan"}"#,
    r#"{"propagationPolicy": "Sideways"}"#,
    r#"{"gracePeriodSeconds": 0}"#,
    r#"{"gracePeriodSeconds": 7}"#,
    r#"{"gracePeriodSeconds": -5}"#,
    r#"{"preconditions": {"uid": "other"}}"#,
    r#"{"preconditions": {"resourceVersion": "1"}}"#,
    r#"{"dryRun": ["All"]}"#,
    r#"{"dryRun": ["Some"]}"#,
    r#"{"orphanDependents": true, "propagationPolicy": "Orphan"}"#,
    r#"{"kind": "Pod", "apiVersion": "v1"}"#,
    r#"{"unknown": 1}"#,
];

/// Two or three values at once.
fn mixed(pool: &Pool, random: &mut StdRng) -> Draw {
    let all = edits(&pool.values);
    let count = random.random_range(2..4);
    let chosen: Vec<Edit> = all.sample(random, count).cloned().collect();
    let base = pool.bases.choose(random).cloned().unwrap_or_default();
    let how = match random.random_range(0..4) {
        0 | 1 => How::Create(chosen),
        2 => How::Update(chosen),
        _ => How::Patch(["merge", "strategic", "json"].choose(random).copied().unwrap_or("merge"), chosen),
    };
    Draw { at: pool.at.clone(), base, how, query: "" }
}

fn edits(values: &Map<String, Value>) -> Vec<Edit> {
    let each =
        values.iter().flat_map(|(pointer, values)| values.as_array().into_iter().flatten().map(move |v| (pointer, v)));
    each.map(|(pointer, value)| (pointer.clone(), value.clone())).collect()
}

impl Draw {
    fn case(self, kind: &str, name: &str) -> Case {
        let Draw { at, mut base, how, query } = self;
        set(&mut base, "/metadata/name", name.into());
        let collection = format!("{at}?{query}");
        let object = format!("{at}/{name}?{query}");
        let creation = Step::new("POST", at.clone(), Content::Json(base.clone()));
        let told = |edits: &[Edit]| -> String {
            edits.iter().map(|(pointer, value)| format!("{pointer}={value}")).collect::<Vec<_>>().join(" ")
        };
        let (what, mut steps) = match how {
            How::Create(edits) => {
                let what = format!("create {}", told(&edits));
                edits.into_iter().for_each(|(pointer, value)| set(&mut base, &pointer, value));
                (what, vec![Step::new("POST", collection, Content::Json(base))])
            }
            How::Update(edits) => {
                (format!("update {}", told(&edits)), vec![creation, Step::new("PUT", object, Content::Current(edits))])
            }
            How::Patch(form, edits) => {
                let what = format!("patch {form} {}", told(&edits));
                let (media, body) = patch(form, edits);
                (what, vec![creation, Step::new("PATCH", object, Content::Json(body)).media(media)])
            }
            How::Subresource(subresource, false, edit) => {
                let path = format!("{at}/{name}/{subresource}");
                let what = format!("{subresource} {}", told(std::slice::from_ref(&edit)));
                (what, vec![creation, Step::new("PUT", path, Content::Current(vec![edit]))])
            }
            How::Subresource(subresource, true, edit) => {
                let path = format!("{at}/{name}/{subresource}");
                let what = format!("{subresource} patch {}", told(std::slice::from_ref(&edit)));
                let (media, body) = patch("merge", vec![edit]);
                (what, vec![creation, Step::new("PATCH", path, Content::Json(body)).media(media)])
            }
            How::Delete(options) => {
                let body = if options.is_null() { Content::None } else { Content::Json(options.clone()) };
                (format!("delete {options}"), vec![creation, Step::new("DELETE", format!("{at}/{name}"), body)])
            }
        };
        if steps.len() > 1 {
            steps.push(Step::new("GET", format!("{at}/{name}"), Content::None));
        }
        // What a case takes (addresses, ports) the next one may want; a forced end needs no grace.
        if !kind.starts_with("namespace") {
            steps.push(Step::new("DELETE", format!("{at}/{name}"), Content::Json(json!({"gracePeriodSeconds": 0}))));
        }
        Case { name: format!("{kind} {what}"), steps }
    }
}

/// A patch that sets what the edits say.
fn patch(form: &str, edits: Vec<Edit>) -> (&'static str, Value) {
    if form == "json" {
        let operations: Vec<Value> = edits
            .into_iter()
            .map(|(pointer, value)| match value {
                Value::Null => json!({"op": "remove", "path": pointer}),
                value => json!({"op": "add", "path": pointer, "value": value}),
            })
            .collect();
        return ("application/json-patch+json", operations.into());
    }
    let mut body = json!({});
    for (pointer, value) in edits {
        // An index has no place in a merge patch: the list goes whole.
        match pointer.split_once("/0/") {
            Some((list, field)) => {
                // By what lists are merged.
                let mut item = match list {
                    "/spec/containers" | "/spec/template/spec/containers" => json!({"name": "c"}),
                    "/spec/ports" => json!({"port": 80}),
                    _ => json!({}),
                };
                set(&mut item, &format!("/{field}"), value);
                set(&mut body, list, json!([item]));
            }
            None => put(&mut body, &pointer, value),
        }
    }
    let media =
        if form == "strategic" { "application/strategic-merge-patch+json" } else { "application/merge-patch+json" };
    (media, body)
}

/// Like `set`, but a null is part of the patch.
fn put(body: &mut Value, pointer: &str, value: Value) {
    set(body, pointer, json!("placeholder"));
    if let Some(place) = body.pointer_mut(pointer) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_names_are_unique() {
        let (one, two) = (cases(7, 300), cases(7, 300));
        let text = |cases: &[Case]| serde_json::to_string(cases).unwrap();
        assert_eq!(text(&one), text(&two));
        assert_ne!(text(&one), text(&cases(8, 300)));
        assert_eq!(one.len(), 300);
    }
}
