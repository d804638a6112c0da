//! What clients were told, in a form in which two servers can be compared: revisions as ranks, the random masked.

use std::collections::BTreeMap;

use conformance::step;
use serde_json::{Value, json};

/// The revisions at which objects of a kind changed, by the kind's plural.
#[derive(Clone, Debug, Default)]
pub struct Ranks(BTreeMap<&'static str, Vec<i64>>);

impl Ranks {
    pub fn add(&mut self, plural: &'static str, revisions: Vec<i64>) {
        let known = self.0.entry(plural).or_default();
        known.extend(revisions);
        known.sort_unstable();
        known.dedup();
    }

    /// How many changes of the kind there are up to a revision, and whether it is one of them.
    fn of(&self, plural: &str, revision: &str) -> (usize, bool) {
        let Ok(number) = revision.parse::<i64>() else { return (0, false) };
        let known = self.0.get(plural).map_or(&[][..], Vec::as_slice);
        (known.partition_point(|at| *at <= number), known.binary_search(&number).is_ok())
    }
}

/// What one client was told, one thing after the other.
pub struct Told {
    pub name: String,
    /// The kind whose revisions it saw.
    pub plural: &'static str,
    pub lines: Vec<Value>,
}

/// Everything that the clients of one server were told.
#[derive(Default)]
pub struct Record {
    told: BTreeMap<String, Vec<Value>>,
}

impl Record {
    /// A fact that needs no translation.
    pub fn note(&mut self, name: &str, value: Value) {
        self.told.entry(name.to_owned()).or_default().push(value);
    }

    /// Takes what clients were told; the one that sees all changes of a kind gives revisions their ranks.
    pub fn take(&mut self, mut seen: Vec<(Told, bool)>) {
        for (told, _) in &mut seen {
            told.lines.retain(belongs);
            let lines = std::mem::take(&mut told.lines);
            told.lines = without_timed_bookmarks(without_last_marks(lines));
        }
        let mut ranks = Ranks::default();
        for (told, everything) in &seen {
            if *everything {
                let revisions = told.lines.iter().filter_map(|line| {
                    line["object"]["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok())
                });
                ranks.add(told.plural, revisions.collect());
            }
        }
        for (told, _) in seen {
            let lines = told.lines.into_iter().map(|line| comparable(line, told.plural, &ranks)).collect();
            self.told.insert(told.name, lines);
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.told.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.told.contains_key(name)
    }

    pub fn told(&self, name: &str) -> &[Value] {
        self.told.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The servers' own objects are no part of a history.
fn belongs(line: &Value) -> bool {
    let object = if line["object"]["rows"].is_array() { &line["object"]["rows"][0]["object"] } else { &line["object"] };
    object["metadata"]["namespace"].as_str().is_none_or(|namespace| namespace.starts_with("watched-"))
}

/// The original writes into a pod without a grace period that it ends now, and then removes it; ours removes it. The
/// change just before the deletion is left out, and what it says from the last state.
fn without_last_marks(lines: Vec<Value>) -> Vec<Value> {
    let subject = |line: &Value| -> Option<(String, Value)> {
        let kind = line["type"].as_str()?.to_owned();
        let rows = line["object"]["rows"][0]["object"]["metadata"].clone();
        Some((kind, if rows.is_object() { rows } else { line["object"]["metadata"].clone() }))
    };
    let mut out: Vec<Value> = Vec::new();
    for mut line in lines {
        if let Some((kind, metadata)) =
            subject(&line).filter(|(kind, _)| kind.eq_ignore_ascii_case("deleted") || kind == "Delete")
        {
            let marked = out.iter().rposition(|earlier| {
                subject(earlier).is_some_and(|(kind, before)| {
                    (kind == "MODIFIED" || kind == "Apply")
                        && before["uid"] == metadata["uid"]
                        && before["deletionGracePeriodSeconds"] == 0
                        && metadata["finalizers"].is_null()
                })
            });
            let _ = kind;
            if let Some(at) = marked.filter(|at| at + 1 == out.len()) {
                out.remove(at);
            }
            strip(&mut line);
        }
        out.push(line);
    }
    out
}

/// A clock says whether there is a bookmark between two events, or one more after another: what counts is the one that
/// ends the initial events, and the one before the end of a watch.
fn without_timed_bookmarks(lines: Vec<Value>) -> Vec<Value> {
    let is_bookmark = |line: Option<&Value>| line.is_some_and(|line| line["type"] == "BOOKMARK");
    let ends_initial = |line: &Value| {
        let rows = &line["object"]["rows"][0]["object"]["metadata"]["annotations"];
        rows.is_object() || line["object"]["metadata"]["annotations"].is_object()
    };
    let mut kept: Vec<Value> = Vec::new();
    let mut following = lines.iter().skip(1).map(|line| line["type"].is_string()).collect::<Vec<_>>().into_iter();
    for line in lines {
        let followed = following.next().unwrap_or(false);
        let timed = is_bookmark(Some(&line)) && !ends_initial(&line);
        if !(timed && (followed || is_bookmark(kept.last()))) {
            kept.push(line);
        }
    }
    kept
}

/// What the last change before a deletion says.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                fields.remove(field);
            }
            // Of a Table the cells say it too.
            if let Some(Value::Array(cells)) = fields.get_mut("cells") {
                cells
                    .iter_mut()
                    .filter(|cell| *cell == "Terminating" || *cell == "Pending")
                    .for_each(|c| *c = Value::Null);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Ranks instead of revisions; no uids, times, tokens and ages.
pub fn comparable(mut line: Value, plural: &str, ranks: &Ranks) -> Value {
    let bookmark = line["type"] == "BOOKMARK";
    rank(&mut line, plural, ranks, Exactness { here: !bookmark, below: !bookmark });
    step::mask(&mut line);
    line
}

/// Whether a revision has to be that of a change: a list's or a bookmark's is the server's.
#[derive(Clone, Copy)]
struct Exactness {
    here: bool,
    below: bool,
}

fn rank(value: &mut Value, plural: &str, ranks: &Ranks, exactness: Exactness) {
    match value {
        Value::Object(fields) => {
            let loose = !exactness.here
                || fields.contains_key("items")
                || fields.get("kind").is_some_and(|kind| kind == "Table");
            if let Some(metadata) = fields.get_mut("metadata")
                && let Some(revision) = metadata["resourceVersion"].as_str().map(str::to_owned)
                && !revision.is_empty()
                && let Some(metadata) = metadata.as_object_mut()
            {
                let (rank, exact) = ranks.of(plural, &revision);
                metadata.remove("resourceVersion");
                let told = if loose { json!(rank) } else { json!([rank, exact]) };
                metadata.insert("rank".to_owned(), told);
            }
            if let Some(Value::Array(columns)) = fields.get_mut("columnDefinitions") {
                columns
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|column| drop(column.remove("description")));
            }
            if let Some(token) = fields.get_mut("continue").filter(|token| token.is_string()) {
                *token = opened(token, plural, ranks);
            }
            if let Some(Value::String(message)) = fields.get_mut("message") {
                *message = without_numbers(message);
            }
            if let Some(Value::Array(cells)) = fields.get_mut("cells") {
                cells.iter_mut().filter(|cell| is_age(cell)).for_each(|cell| *cell = "<age>".into());
            }
            for (key, value) in fields.iter_mut() {
                // What a Table's rows show are objects as they are in events.
                let here = exactness.below && !(loose && key == "metadata");
                rank(value, plural, ranks, Exactness { here, ..exactness });
            }
        }
        Value::Array(items) => {
            let exactness = Exactness { here: exactness.below, ..exactness };
            items.iter_mut().for_each(|item| rank(item, plural, ranks, exactness));
        }
        _ => {}
    }
}

/// A continue token as what it says.
fn opened(token: &Value, plural: &str, ranks: &Ranks) -> Value {
    use base64::Engine;
    let text = token.as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    match bytes.ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
        Some(mut said) => {
            if let Some(revision) = said["rv"].as_i64().filter(|revision| *revision > 0) {
                said["rv"] = ranks.of(plural, &revision.to_string()).0.into();
            }
            let start = said["start"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
            said["start"] = start.into();
            said
        }
        None => token.clone(),
    }
}

/// Revisions in messages: "Too large resource version: 8, current: 5".
fn without_numbers(message: &str) -> String {
    if !message.contains("resource version") && !message.contains("revision") {
        return message.to_owned();
    }
    let mut out = String::new();
    for c in message.chars() {
        match c.is_ascii_digit() {
            true if out.ends_with('N') => {}
            true => out.push('N'),
            false => out.push(c),
        }
    }
    out
}

fn is_age(cell: &Value) -> bool {
    let Some(text) = cell.as_str() else { return false };
    let number = text.trim_end_matches(['s', 'm', 'h']);
    text.len() == number.len() + 1 && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}
