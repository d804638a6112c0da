//! An OpenAPI v2 document as the protobuf that kubectl reads it in (`openapi.v2.Document` of gnostic's OpenAPIv2.proto).
//!
//! Not responsible for the document's content; of Schema and Operation only the fields are written that `v2` makes.

use serde_json::Value;

/// The document's bytes.
pub fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.nested(2, info);
    let mut paths = Message::default();
    for (name, item) in document["paths"].as_object().into_iter().flatten() {
        paths.named(2, name, path_item(item));
    }
    out.nested(8, paths);
    out.nested(9, named_schemas(&document["definitions"]));
    out.0
}

/// A message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn nested(&mut self, field: u64, message: Message) {
        self.bytes(field, &message.0);
    }

    /// A member of a map: name and value.
    fn named(&mut self, field: u64, name: &str, value: Message) {
        let mut member = Message::default();
        member.bytes(1, name.as_bytes());
        member.nested(2, value);
        self.nested(field, member);
    }

    /// Absent where there is no text.
    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, values: &Value) {
        values.as_array().into_iter().flatten().for_each(|value| self.text(field, value));
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// Everything whose name begins with `x-`.
    fn extensions(&mut self, field: u64, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.named(field, name, any(value));
        }
    }
}

/// A value of any type travels as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if item[method].is_object() {
            out.nested(field, operation(&item[method]));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    parameters(&mut out, 8, &operation["parameters"]);
    let mut responses = Message::default();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let mut answer = Message::default();
        answer.text(1, &response["description"]);
        if response["schema"].is_object() {
            answer.nested(2, within(1, schema(&response["schema"])));
        }
        responses.named(1, code, within(1, answer));
    }
    out.nested(9, responses);
    out.extensions(13, operation);
    out
}

/// A message that holds nothing but another.
fn within(field: u64, inner: Message) -> Message {
    let mut out = Message::default();
    out.nested(field, inner);
    out
}

fn parameters(out: &mut Message, field: u64, parameters: &Value) {
    for parameter in parameters.as_array().into_iter().flatten() {
        let place = parameter["in"].as_str().unwrap_or_default();
        let kind = if place == "body" { within(1, body(parameter)) } else { within(2, plain(parameter, place)) };
        out.nested(field, within(1, kind));
    }
}

fn body(parameter: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &parameter["description"]);
    out.text(2, &parameter["name"]);
    out.text(3, &parameter["in"]);
    out.flag(4, &parameter["required"]);
    out.nested(5, schema(&parameter["schema"]));
    out
}

/// A parameter of the query or the path: the same fields, of which the query's type comes one later.
fn plain(parameter: &Value, place: &str) -> Message {
    let (variant, kind, unique) = if place == "query" { (3, 6, 20) } else { (4, 5, 19) };
    let mut out = Message::default();
    out.flag(1, &parameter["required"]);
    out.text(2, &parameter["in"]);
    out.text(3, &parameter["description"]);
    out.text(4, &parameter["name"]);
    out.text(kind, &parameter["type"]);
    out.flag(unique, &parameter["uniqueItems"]);
    within(variant, out)
}

fn named_schemas(schemas: &Value) -> Message {
    let mut out = Message::default();
    for (name, value) in schemas.as_object().into_iter().flatten() {
        out.named(1, name, schema(value));
    }
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &value["$ref"]);
    out.text(2, &value["format"]);
    out.text(4, &value["description"]);
    if let Some(default) = value.get("default") {
        out.nested(5, any(default));
    }
    out.texts(19, &value["required"]);
    value["enum"].as_array().into_iter().flatten().for_each(|value| out.nested(20, any(value)));
    if value["additionalProperties"].is_object() {
        out.nested(21, within(1, schema(&value["additionalProperties"])));
    }
    if let Some(kind) = value["type"].as_str() {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        out.nested(22, item);
    }
    if value["items"].is_object() {
        out.nested(23, within(1, schema(&value["items"])));
    }
    if value["properties"].is_object() {
        out.nested(25, named_schemas(&value["properties"]));
    }
    out.extensions(31, value);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_written_field_by_field() {
        let bytes = document(&json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v1"}, "paths": {},
            "definitions": {"a": {"type": "string", "x-b": [1]}},
        }));
        let begin = b"\x0a\x032.0\x12\x07\x0a\x01K\x12\x02v1\x42\x00";
        // The definition's extension, as YAML, comes last.
        let end = b"\x0a\x03x-b\x12\x06\x12\x04[1]\n";
        assert!(bytes.starts_with(begin), "{bytes:?}");
        assert!(bytes.ends_with(end), "{bytes:?}");
    }
}
