//! One request as data, sent to any server, and its answer with what is random or the server's own masked.

use anyhow::{Context, Result};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body as ClientBody;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A request. Those that change an object as it is now say how instead of carrying it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub method: String,
    pub path: String,
    /// The media type of the body, `application/json` when there is none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<String>,
    #[serde(default, skip_serializing_if = "Content::is_none")]
    pub body: Content,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    #[default]
    None,
    Json(Value),
    /// Not necessarily JSON.
    Text(String),
    /// A text of this length of what is given, so that huge bodies are small here.
    Repeated(String, usize, String, usize, String),
    /// The object as the server has it, with these pointers set (or, by null, removed).
    Current(Vec<(String, Value)>),
}

impl Content {
    fn is_none(&self) -> bool {
        *self == Content::None
    }
}

/// What a server answered, masked.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Answer {
    pub code: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Step {
    pub fn new(method: &str, path: impl Into<String>, body: Content) -> Self {
        Step { method: method.to_owned(), path: path.into(), media: None, accept: None, body }
    }

    pub fn media(mut self, media: &str) -> Self {
        self.media = Some(media.to_owned());
        self
    }

    /// The path of the object that a creation makes.
    pub fn object_path(&self) -> Option<String> {
        let Content::Json(object) = &self.body else { return None };
        let collection = self.path.split('?').next()?;
        (self.method == "POST").then(|| Some(format!("{collection}/{}", object["metadata"]["name"].as_str()?)))?
    }

    /// Sends it.
    pub async fn send(&self, client: &kube::Client) -> Result<Answer> {
        let content = match &self.body {
            Content::None => Vec::new(),
            Content::Json(value) => value.to_string().into_bytes(),
            Content::Text(text) => text.clone().into_bytes(),
            Content::Repeated(head, first, middle, second, tail) => {
                let (open, close) = (head.repeat(*first), tail.repeat(*second));
                format!("{open}{middle}{close}").into_bytes()
            }
            Content::Current(edits) => {
                let path = self.path.split('?').next().unwrap_or_default();
                let (_, _, now) = exchange(client, "GET", path, None, None, Vec::new()).await?;
                let mut object: Value = serde_json::from_slice(&now).context("the object as it is")?;
                for (pointer, value) in edits {
                    set(&mut object, pointer, value.clone());
                }
                object.to_string().into_bytes()
            }
        };
        let media = (!content.is_empty()).then(|| self.media.as_deref().unwrap_or("application/json"));
        let (code, warnings, body) =
            exchange(client, &self.method, &self.path, media, self.accept.as_deref(), content).await?;
        let mut body: Value =
            serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
        mask(&mut body);
        Ok(Answer { code, warnings: warnings.into_iter().map(|text| masked_text(&text)).collect(), body })
    }
}

async fn exchange(
    client: &kube::Client,
    method: &str,
    path: &str,
    media: Option<&str>,
    accept: Option<&str>,
    content: Vec<u8>,
) -> Result<(u16, Vec<String>, Vec<u8>)> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(path);
    request = request.header("accept", accept.unwrap_or("application/json"));
    if let Some(media) = media.filter(|media| !media.is_empty()) {
        request = request.header("content-type", media);
    }
    let response = client.send(request.body(ClientBody::from(content))?).await;
    let (parts, body) = response.with_context(|| format!("{method} {path}"))?.into_parts();
    let warnings = parts.headers.get_all("warning").iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    Ok((parts.status.as_u16(), warnings.collect(), body.collect().await?.to_bytes().to_vec()))
}

/// Sets what a JSON pointer names, making the objects on the way; null removes it.
pub fn set(object: &mut Value, pointer: &str, value: Value) {
    let segments: Vec<String> = pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    let Some((last, way)) = segments.split_last() else { return };
    let mut at = object;
    for segment in way {
        at = match at {
            Value::Array(items) => match segment.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                Some(item) => item,
                None => return,
            },
            other => {
                if !other.is_object() {
                    *other = json!({});
                }
                &mut other[segment]
            }
        };
    }
    match at {
        Value::Array(items) => match last.parse::<usize>() {
            Ok(index) if index < items.len() && value.is_null() => drop(items.remove(index)),
            Ok(index) if index < items.len() => items[index] = value,
            _ => items.push(value),
        },
        other if value.is_null() => {
            if let Some(map) = other.as_object_mut() {
                map.remove(last);
            }
        }
        other => {
            if !other.is_object() {
                *other = json!({});
            }
            other[last] = value;
        }
    }
}

/// How the message about a pod's immutable fields begins.
const MUTABLE_FIELDS: &str = "pod updates may not change fields other than";

/// Node ports and addresses below these are never handed out unasked; above, they are random.
const FIRST_RANDOM_NODE_PORT: i64 = 30086;

/// Replaces what differs from server to server and from run to run.
pub fn mask(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            // The original runs without the plugin that fills these in.
            for field in ["serviceAccount", "serviceAccountName"] {
                if map.get(field).is_some_and(|account| account == "default") {
                    map.remove(field);
                }
            }
            let generated = map.get("generateName").and_then(Value::as_str).map(str::to_owned);
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "uid" | "resourceVersion" if value.is_string() => *value = format!("<{key}>").into(),
                    "creationTimestamp" | "deletionTimestamp" | "lastTransitionTime" | "lastUpdateTime"
                        if value.is_string() =>
                    {
                        *value = "<time>".into();
                    }
                    "nodePort" | "healthCheckNodePort" if random_port(value) => *value = "<port>".into(),
                    "name" if generated.as_ref().is_some_and(|base| made_from(value, base)) => {
                        *value = "<generated>".into();
                    }
                    "causes" => {
                        mask(value);
                        tell_once(value);
                    }
                    _ => mask(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => *text = masked_text(without_dumps(text)),
        _ => {}
    }
}

/// The original repeats a cause for each of its functions that looked.
fn tell_once(causes: &mut Value) {
    let mut seen: Vec<Value> = Vec::new();
    if let Some(causes) = causes.as_array_mut() {
        causes.retain(|cause| {
            let new = !seen.contains(cause);
            seen.push(cause.clone());
            new
        });
    }
}

/// Some messages end in what changed: the original's in lines of its own structs, ours in the names of fields. And a patch
/// that leads to no object is answered with the whole of what it leads to.
fn without_dumps(text: &str) -> &str {
    let text = match text.find(MUTABLE_FIELDS) {
        Some(at) => text[at..].find('\n').map_or(text, |end| &text[..at + end]),
        None => text,
    };
    match (text.find("Invalid value: \"{"), text.rfind("}\": ")) {
        (Some(from), Some(to)) if from < to => &text[to + 2..],
        _ => text,
    }
}

/// Revisions that messages tell.
fn without_revision(mut text: String) -> String {
    for before in ["ResourceVersion in record (", "ResourceVersion in object meta: "] {
        if let Some(at) = text.find(before) {
            let from = at + before.len();
            let digits = text[from..].bytes().take_while(u8::is_ascii_digit).count();
            text.replace_range(from..from + digits, "<revision>");
        }
    }
    text
}

fn random_port(value: &Value) -> bool {
    value.as_i64().is_some_and(|port| (FIRST_RANDOM_NODE_PORT..=32767).contains(&port))
}

fn made_from(name: &Value, base: &str) -> bool {
    name.as_str().is_some_and(|name| name.starts_with(base.get(..58).unwrap_or(base)) && name != base)
}

/// Addresses of the range's random part, and uids, inside a text.
fn masked_text(text: &str) -> String {
    let is_uid = |word: &str| {
        word.len() == 36
            && word
                .bytes()
                .enumerate()
                .all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
    };
    // Where the original's storage tells its keys.
    let text = match (text.find("StorageError: "), text.find("AdditionalErrorMsg: ")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + 20..]),
        _ => text.to_owned(),
    };
    let text = without_revision(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("10.96.").filter(|_| !out.ends_with(|c: char| c.is_ascii_digit()))
            && let Some(end) = after.find(|c: char| !c.is_ascii_digit() && c != '.').or(Some(after.len()))
            && after[..end].split('.').next().is_some_and(|third| third.parse::<u8>().is_ok_and(|third| third > 0))
        {
            out.push_str("<address>");
            rest = &after[end..];
            continue;
        }
        match rest.get(..36) {
            Some(word) if is_uid(word) => {
                out.push_str("<uid>");
                rest = &rest[36..];
            }
            _ => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_set_and_remove() {
        let mut object = json!({"a": [{"b": 1}], "c": 2});
        set(&mut object, "/a/0/b", json!(3));
        set(&mut object, "/a/1", json!({"new": true}));
        set(&mut object, "/d/e~1f", json!("x"));
        set(&mut object, "/c", Value::Null);
        assert_eq!(object, json!({"a": [{"b": 3}, {"new": true}], "d": {"e/f": "x"}}));
    }

    #[test]
    fn what_is_random_is_masked_and_nothing_else() {
        let mut object = json!({
            "metadata": {"name": "a-x7k2p", "generateName": "a-", "uid": "u", "resourceVersion": "5", "managedFields": []},
            "spec": {"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.0.7"], "ports": [{"nodePort": 31000}, {"nodePort": 30001}]},
            "message": "of 01234567-89ab-cdef-0123-456789abcdef!",
        });
        mask(&mut object);
        let expected = json!({
            "metadata": {"name": "<generated>", "generateName": "a-", "uid": "<uid>", "resourceVersion": "<resourceVersion>"},
            "spec": {"clusterIP": "<address>", "clusterIPs": ["10.96.0.7"], "ports": [{"nodePort": "<port>"}, {"nodePort": 30001}]},
            "message": "of <uid>!",
        });
        assert_eq!(object, expected);
    }
}
