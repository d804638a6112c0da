//! From a file's text to its objects: YAML as Kubernetes reads it, or JSON, one document after another; Lists are taken
//! apart. A mistake names the document, the line and, where it can be told, the way out.

use std::path::Path;

use serde_json::Value;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use super::{Manifest, Source};

/// What the API server takes (kube-apiserver's limit for a request body).
const LARGEST: usize = 3 * 1024 * 1024;
/// Levels of lists and fields, within what JSON's readers take.
const DEEPEST: usize = 120;

/// Adds the objects of a text, and what is wrong with it.
pub fn parse(file: &Path, text: &str, manifests: &mut Vec<Manifest>, mistakes: &mut Vec<String>) {
    let named = file.to_string_lossy();
    let of_json = file.extension().is_some_and(|e| e == "json");
    let values = match json(text) {
        Some(Ok(documents)) => documents.into_iter().map(|(line, value)| (line, Ok(value))).collect(),
        // Flow style, as in `{kind: Pod}`, is YAML.
        Some(Err(Malformed { line, problem })) if of_json => {
            mistakes.push(format!("{named}, line {line}: {problem}"));
            return;
        }
        _ => yaml(text),
    };
    for (document, (line, value)) in (1..).zip(values) {
        let source = Source { file: file.to_owned(), document, line };
        match value.map(|value| objects(&source, value)) {
            Ok(Ok(found)) => manifests.extend(found),
            Ok(Err(problem)) => mistakes.push(format!("{source}: {problem}")),
            Err(Malformed { line, problem }) => {
                let source = Source { line, ..source };
                mistakes.push(format!("{source}: {problem}"));
            }
        }
    }
}

/// The objects of a document.
fn objects(source: &Source, value: Value) -> Result<Vec<Manifest>, String> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    let list = kind == "List" || kind.ends_with("List") && value["items"].is_array();
    if list {
        let Value::Object(mut list) = value else { return Ok(Vec::new()) };
        let Some(Value::Array(items)) = list.remove("items") else {
            return Err("a List needs `items`".to_owned());
        };
        let mut found = Vec::new();
        for (number, item) in (1..).zip(items) {
            found.push(one(source, item).map_err(|problem| format!("item {number}: {problem}"))?);
        }
        return Ok(found);
    }
    Ok(vec![one(source, value)?])
}

/// The object, if it has what each must have.
fn one(source: &Source, object: Value) -> Result<Manifest, String> {
    let Some(fields) = object.as_object() else {
        let what = match &object {
            Value::Array(_) => "a list",
            Value::String(_) => "plain text",
            _ => "a plain value",
        };
        return Err(format!("{what}, and no object: it needs apiVersion, kind and metadata"));
    };
    let metadata = match fields.get("metadata") {
        Some(Value::Object(metadata)) => Some(metadata),
        Some(Value::Null) | None => None,
        Some(_) => return Err("`metadata` must have fields (name: …)".to_owned()),
    };
    let kustomization = fields.get("apiVersion").and_then(Value::as_str).is_some_and(|v| v.starts_with("kustomize."));
    if kustomization || fields.get("kind").is_some_and(|kind| kind == "Kustomization") {
        return Err("this is for kustomize: `kubectl kustomize DIRECTORY | portolan up -f -`".to_owned());
    }
    let mut missing = Vec::new();
    for (field, value) in [
        ("apiVersion", fields.get("apiVersion")),
        ("kind", fields.get("kind")),
        ("metadata.name", metadata.and_then(|m| m.get("name"))),
    ] {
        match value {
            None | Some(Value::Null) => missing.push(field),
            Some(Value::String(text)) if text.is_empty() => missing.push(field),
            Some(Value::String(_)) => {}
            Some(other) => return Err(format!("`{field}` must be text, and is {other}: put it in quotes")),
        }
    }
    if missing == ["metadata.name"] && metadata.is_some_and(|m| m.contains_key("generateName")) {
        return Err("metadata.generateName makes another object at every apply: give it a metadata.name".to_owned());
    }
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        return Err(format!("{} {verb} missing", missing.join(", ")));
    }
    let size = object.to_string().len();
    if size > LARGEST {
        #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
        let mebibytes = size as f64 / 1_048_576.0;
        return Err(format!(
            "an object of {mebibytes:.1} MiB: the API takes 3 MiB at most, and 1 MiB of a ConfigMap's or Secret's data"
        ));
    }
    Ok(Manifest { source: source.clone(), object })
}

/// A document and the line it begins at.
type Placed = (usize, Value);

struct Malformed {
    line: usize,
    problem: String,
}

/// JSON documents with the lines they begin at, or the first mistake; nothing when it doesn't begin like JSON.
fn json(text: &str) -> Option<Result<Vec<Placed>, Malformed>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut begin = 0;
    while let Some(document) = stream.next() {
        if let Err(error) = document {
            return Some(Err(Malformed { line: error.line(), problem: format!("no valid JSON: {error}") }));
        }
        let part = &text[begin..stream.byte_offset()];
        let line = line_at(text, begin + (part.len() - part.trim_start().len()));
        match api::decode::untyped_json(part.as_bytes()) {
            Ok((_, duplicates)) if !duplicates.is_empty() => {
                return Some(Err(Malformed { line, problem: format!("{} is there twice", duplicates.join(", ")) }));
            }
            Ok((value, _)) => documents.push((line, value)),
            Err(error) => return Some(Err(Malformed { line, problem: error.to_string() })),
        }
        begin = stream.byte_offset();
    }
    Some(Ok(documents))
}

/// YAML documents that aren't empty, with the lines they begin at.
fn yaml(text: &str) -> Vec<(usize, Result<Value, Malformed>)> {
    let mut found = Vec::new();
    for (begin, document) in split(text) {
        // Lines before the document are kept empty, so that the parser counts as the user's editor does.
        let line = line_at(text, begin);
        let padded = format!("{}{document}", "\n".repeat(line - 1));
        let first = line + document.lines().take_while(|l| blank(l)).count();
        if document.lines().all(blank) {
            continue;
        }
        match yaml_documents(&padded, first) {
            // More than one where `...` ends the first.
            Ok(documents) => found.extend(documents.into_iter().map(|document| (first, Ok(document)))),
            Err(malformed) => found.push((first, Err(malformed))),
        }
    }
    found
}

fn blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
}

fn yaml_documents(text: &str, first: usize) -> Result<Vec<Value>, Malformed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: false,
        legacy_octal_numbers: true,
    };
    let parsed: Result<Vec<Value>, _> = serde_saphyr::from_multiple_with_options(text, options);
    match parsed {
        Ok(documents) => Ok(documents),
        Err(error) => {
            let line = error.location().and_then(|l| usize::try_from(l.line()).ok()).unwrap_or(first).max(first);
            let problem = match error.without_snippet() {
                Error::DuplicateMappingKey { key: Some(key), .. } => format!("{key} is there twice"),
                Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
                    format!("nested more deeply than {DEEPEST} levels, which no object is")
                }
                said => format!("no valid YAML: {said}{}", hint(text, line).unwrap_or_default()),
            };
            Err(Malformed { line, problem })
        }
    }
}

/// What people get wrong most, as far as the text shows it.
fn hint(text: &str, line: usize) -> Option<&'static str> {
    if text.contains("{{") {
        return Some("; this looks like a template: render it first, as in `helm template CHART | portolan up -f -`");
    }
    let indented_by_tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    let near = text.lines().skip(line.saturating_sub(2)).take(3);
    if near.clone().any(indented_by_tab) {
        return Some("; a line here is indented by a tab, and YAML takes spaces only");
    }
    None
}

/// Where the text's documents begin, and each one's text with its `---`. Directives (`%YAML`) stay with what follows.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut begins = vec![0];
    let mut offset = 0;
    let mut content = false;
    for line in text.split_inclusive('\n') {
        let marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && content {
            begins.push(offset);
            content = false;
        }
        content |= !blank(line) && !line.starts_with('%');
        offset += line.len();
    }
    begins.push(text.len());
    begins.windows(2).map(|pair| (pair[0], &text[pair[0]..pair[1]])).collect()
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}
