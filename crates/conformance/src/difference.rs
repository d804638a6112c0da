//! What differs between two answers, and a table of it grouped by what kind of difference it is.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::step::Answer;

/// One thing that two answers don't agree on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `code`, `reason`, `message`, `causes`, `warnings`, or the path in the object.
    pub what: String,
    pub original: Value,
    pub ours: Value,
}

/// Everything that two answers differ in. Of a different verdict only the verdict is told, for all else follows.
pub fn differences(original: &Answer, ours: &Answer) -> Vec<Difference> {
    let of = |what: &str, a: Value, b: Value| Difference { what: what.to_owned(), original: a, ours: b };
    if original.code != ours.code {
        let told = |answer: &Answer| match &answer.body["message"] {
            Value::String(message) => format!("{} {message}", answer.code).into(),
            _ => Value::from(answer.code),
        };
        return vec![of("code", told(original), told(ours))];
    }
    let mut found = Vec::new();
    if original.warnings != ours.warnings {
        found.push(of("warnings", original.warnings.clone().into(), ours.warnings.clone().into()));
    }
    if original.body["kind"] == "Status" && ours.body["kind"] == "Status" {
        for field in ["reason", "message", "details"] {
            if original.body[field] != ours.body[field] {
                found.push(of(field, original.body[field].clone(), ours.body[field].clone()));
            }
        }
        return found;
    }
    walk("", &original.body, &ours.body, &mut found);
    found
}

fn walk(path: &str, original: &Value, ours: &Value, found: &mut Vec<Difference>) {
    match (original, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                walk(&format!("{path}.{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| walk(&format!("{path}[]"), a, b, found));
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { what: path.to_owned(), original: a.clone(), ours: b.clone() }),
    }
}

/// Counts by kind of difference, with an example of each.
#[derive(Default)]
pub struct Table(BTreeMap<String, (usize, String, Difference)>);

impl Table {
    pub fn add(&mut self, about: &str, example: &str, difference: &Difference) {
        let key = format!("{about} {}", difference.what);
        let entry = self.0.entry(key).or_insert_with(|| (0, example.to_owned(), difference.clone()));
        entry.0 += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (key, (count, example, difference)) in &self.0 {
            writeln!(f, "{count:>5}  {key}\n       {example}")?;
            writeln!(f, "       original: {}\n       ours:     {}", difference.original, difference.ours)?;
        }
        Ok(())
    }
}
