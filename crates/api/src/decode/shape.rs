//! Brings a value into the shape of its definition: checks types, drops what the definition doesn't know, canonicalises
//! scalars, and leaves present and absent what a Go struct of that type would leave so. Not responsible for parsing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{DecodeError, MAX_PROBLEMS, cut};
use crate::quantity::Quantity;
use crate::schema::{Definition, Field, Kind};

/// Conforms `object` in place; answers with the unknown fields, by path.
pub(super) fn conform(object: &mut Value, definition: &'static Definition) -> Result<Vec<String>, DecodeError> {
    let mut walk = Walk { path: Vec::new(), owner: definition, unknown: Vec::new() };
    match object {
        Value::Object(fields) => walk.message(fields, definition)?,
        other => return Err(walk.mistyped(other, definition.go_name().to_owned(), true)),
    }
    Ok(walk.unknown)
}

enum Segment {
    Field(&'static Field),
    Index(usize),
    Key(String),
}

struct Walk {
    path: Vec<Segment>,
    /// The struct whose field is looked at, for Go's error text.
    owner: &'static Definition,
    unknown: Vec<String>,
}

impl Walk {
    fn message(&mut self, fields: &mut Map<String, Value>, definition: &'static Definition) -> Result<(), DecodeError> {
        let outer = std::mem::replace(&mut self.owner, definition);
        let mut dropped = Vec::new();
        for (name, value) in fields.iter_mut() {
            match definition.field(name) {
                None => {
                    if self.unknown.len() < MAX_PROBLEMS {
                        self.unknown.push(cut(&self.path_to(name)));
                    }
                    dropped.push(name.clone());
                }
                Some(_) if value.is_null() => dropped.push(name.clone()),
                Some(field) => {
                    self.path.push(Segment::Field(field));
                    self.value(value, &field.kind, field)?;
                    self.path.pop();
                    if value.is_null() || hidden(field, value) {
                        dropped.push(name.clone());
                    }
                }
            }
        }
        for name in dropped {
            fields.remove(&name);
        }
        for field in &definition.fields {
            if !fields.contains_key(&field.json_name)
                && let Some(zero) = self.shown_zero(field)?
            {
                fields.insert(field.json_name.clone(), zero);
            }
        }
        self.owner = outer;
        Ok(())
    }

    fn value(&mut self, value: &mut Value, kind: &'static Kind, field: &'static Field) -> Result<(), DecodeError> {
        match kind {
            Kind::List(element) => self.list(value, element, field),
            Kind::Items => self.list(value, &Kind::String, field),
            Kind::Map(element) => self.map(value, element, field),
            Kind::Message(name) => match (value, crate::schema::definition(name)) {
                (Value::Object(fields), Some(definition)) => self.message(fields, definition),
                (other, _) => Err(self.mistyped(other, kind.go_type(None), true)),
            },
            scalar => self.scalar(value, scalar, field),
        }
    }

    fn list(&mut self, value: &mut Value, element: &'static Kind, field: &'static Field) -> Result<(), DecodeError> {
        let Value::Array(elements) = value else {
            return Err(self.mistyped(value, field.go_type(), false));
        };
        for (index, value) in elements.iter_mut().enumerate() {
            if value.is_null() {
                *value = zero(element);
            }
            self.path.push(Segment::Index(index));
            self.value(value, element, field)?;
            self.path.pop();
        }
        Ok(())
    }

    fn map(&mut self, value: &mut Value, element: &'static Kind, field: &'static Field) -> Result<(), DecodeError> {
        let Value::Object(entries) = value else {
            return Err(self.mistyped(value, field.go_type(), false));
        };
        for (key, value) in entries.iter_mut() {
            if value.is_null() {
                *value = zero(element);
            }
            let named = element.message().is_some();
            if named {
                self.path.push(Segment::Key(key.clone()));
            }
            self.value(value, element, field)?;
            if named {
                self.path.pop();
            }
        }
        Ok(())
    }

    fn scalar(&mut self, value: &mut Value, kind: &'static Kind, field: &'static Field) -> Result<(), DecodeError> {
        let canonical = match (kind, &*value) {
            (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => return Ok(()),
            (Kind::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return Ok(()),
            (Kind::Int64, Value::Number(n)) if n.is_i64() => return Ok(()),
            (Kind::IntOrString, Value::String(_)) | (Kind::RawExtension, _) => return Ok(()),
            (Kind::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                return Ok(());
            }
            (Kind::FieldsV1, Value::Object(_)) => return Ok(()),
            (Kind::Int32 | Kind::Int64 | Kind::IntOrString, Value::Number(n)) => {
                return Err(self.unmarshal(format!("number {n}"), read_as(kind, field), false));
            }
            (Kind::Quantity, Value::String(text)) => quantity(text)?,
            (Kind::Quantity, other) => quantity(&other.to_string())?,
            (Kind::Time, Value::String(text)) => crate::time::canonical(text).map_err(DecodeError::Scalar)?,
            (Kind::MicroTime, Value::String(text)) => {
                crate::time::canonical_micro(text).map_err(DecodeError::Scalar)?
            }
            (Kind::Bytes, Value::String(text)) => base64_text(text)?,
            (_, other) => return Err(self.mistyped(other, read_as(kind, field), false)),
        };
        *value = Value::String(canonical);
        Ok(())
    }

    /// What Go writes for an absent field that `omitempty` doesn't hide: it hides no struct, and times are structs.
    fn shown_zero(&mut self, field: &'static Field) -> Result<Option<Value>, DecodeError> {
        if field.omitzero {
            return Ok(None);
        }
        if field.pointer {
            return Ok((!field.omitempty).then_some(Value::Null));
        }
        match &field.kind {
            Kind::Time | Kind::MicroTime => Ok(Some(Value::Null)),
            Kind::List(_) | Kind::Map(_) | Kind::Items | Kind::Bytes if !field.omitempty => Ok(Some(Value::Null)),
            Kind::Message(name) => {
                let mut fields = Map::new();
                if let Some(definition) = crate::schema::definition(name) {
                    self.message(&mut fields, definition)?;
                }
                Ok(Some(Value::Object(fields)))
            }
            Kind::String | Kind::Bool | Kind::Int32 | Kind::Int64 if !field.omitempty => Ok(Some(zero(&field.kind))),
            // Structs in Go, which `omitempty` never hides.
            Kind::IntOrString | Kind::Quantity => Ok(Some(zero(&field.kind))),
            _ => Ok(None),
        }
    }

    /// `spec.ports[0].name`
    fn path_to(&self, name: &str) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(field) => text.push_str(&format!("{}.", field.json_name)),
                Segment::Key(key) => text.push_str(&format!("{key}.")),
                Segment::Index(index) => {
                    text.pop();
                    text.push_str(&format!("[{index}]."));
                }
            }
        }
        text + name
    }

    fn mistyped(&self, found: &Value, expected: String, structure: bool) -> DecodeError {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.unmarshal(found.to_owned(), expected, structure)
    }

    /// Go names the innermost struct, and the path of field names from the root.
    fn unmarshal(&self, found: String, expected: String, structure: bool) -> DecodeError {
        let mut target = format!("Go struct field {}", self.owner.short_name());
        for segment in &self.path {
            if let Segment::Field(field) = segment {
                for part in field.inline.iter().map(|i| &i.name).chain([&field.json_name]) {
                    target.push('.');
                    target.push_str(part);
                }
            }
        }
        if self.path.is_empty() {
            target = "Go value".to_owned();
        }
        DecodeError::Type { found, target, expected, structure }
    }
}

/// The Go type that a scalar is read as: times and int-or-strings read themselves from a simpler type.
fn read_as(kind: &Kind, field: &Field) -> String {
    match kind {
        Kind::Time | Kind::MicroTime => "string".to_owned(),
        Kind::IntOrString => "int32".to_owned(),
        Kind::String => field.go_name.as_deref().unwrap_or("string").to_owned(),
        kind => kind.go_type(None),
    }
}

/// Whether `omitempty` hides this value.
fn hidden(field: &Field, value: &Value) -> bool {
    if !field.omitempty || field.pointer {
        return false;
    }
    match value {
        Value::Bool(shown) => !shown,
        Value::Number(number) => field.kind != Kind::IntOrString && number.as_i64() == Some(0),
        Value::String(text) => text.is_empty() && field.kind != Kind::IntOrString,
        Value::Array(elements) => elements.is_empty(),
        Value::Object(entries) => matches!(field.kind, Kind::Map(_)) && entries.is_empty(),
        Value::Null => true,
    }
}

/// Go's zero value: what a null becomes inside a list or map.
fn zero(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::IntOrString => 0.into(),
        Kind::Quantity => "0".into(),
        Kind::List(_) | Kind::Items => Value::Array(Vec::new()),
        Kind::Map(_) | Kind::Message(_) | Kind::FieldsV1 => Value::Object(Map::new()),
        Kind::RawExtension => Value::Null,
        Kind::Time | Kind::MicroTime => "0001-01-01T00:00:00Z".into(),
        Kind::String | Kind::Bytes => "".into(),
    }
}

fn quantity(text: &str) -> Result<String, DecodeError> {
    text.parse::<Quantity>().map(|q| q.to_string()).map_err(|e| DecodeError::Scalar(e.to_string()))
}

fn base64_text(text: &str) -> Result<String, DecodeError> {
    let stripped: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match STANDARD.decode(&stripped) {
        Ok(_) => Ok(stripped),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol { offset: at, .. }) => {
            Err(DecodeError::Scalar(format!("illegal base64 data at input byte {at}")))
        }
        // Too short: where its last group of four begins.
        Err(_) => {
            let begun = stripped.len() - stripped.len() % 4;
            Err(DecodeError::Scalar(format!("illegal base64 data at input byte {begun}")))
        }
    }
}
