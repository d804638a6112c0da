//! JSON to protobuf, by the schema table. Not responsible for checking the object: a value of the wrong type is an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::wire::{put_bytes, put_integer};
use super::{Envelope, MAGIC, MAX_DEPTH, ProtoError};
use crate::schema::{self, Definition, Field, Kind};

pub(super) fn envelope(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, envelope.api_version.as_bytes());
    put_bytes(&mut type_meta, 2, envelope.kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, envelope.raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, envelope.content_type.as_bytes());
    out
}

pub(super) fn message(object: &Value, definition: &Definition) -> Result<Vec<u8>, ProtoError> {
    nested(object, definition, None, 0)
}

/// The fields of one message; `inline` as in `read`.
fn nested(object: &Value, definition: &Definition, inline: Option<u32>, depth: usize) -> Result<Vec<u8>, ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::TooDeep);
    }
    let mut out = Vec::new();
    let mut wrapped = Vec::new();
    for field in &definition.fields {
        let value = &object[&field.json_name];
        if value.is_null() || field.tag == 0 {
            continue;
        }
        match field.outer_tag() {
            outer if outer == inline => put_field(&mut out, field, value, depth)?,
            Some(outer) if inline.is_none() && !wrapped.contains(&outer) => wrapped.push(outer),
            _ => {}
        }
    }
    for outer in wrapped {
        put_bytes(&mut out, outer, &nested(object, definition, Some(outer), depth + 1)?);
    }
    Ok(out)
}

fn put_field(out: &mut Vec<u8>, field: &Field, value: &Value, depth: usize) -> Result<(), ProtoError> {
    match &field.kind {
        Kind::List(element) => {
            for value in value.as_array().ok_or_else(|| mistyped(field))? {
                put(out, field.tag, element, value, field, depth)?;
            }
            Ok(())
        }
        Kind::Map(element) => {
            for (key, value) in value.as_object().ok_or_else(|| mistyped(field))? {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put(&mut entry, 2, element, value, field, depth)?;
                put_bytes(out, field.tag, &entry);
            }
            Ok(())
        }
        kind => put(out, field.tag, kind, value, field, depth),
    }
}

fn put(out: &mut Vec<u8>, tag: u32, kind: &Kind, value: &Value, field: &Field, depth: usize) -> Result<(), ProtoError> {
    let text = || value.as_str().ok_or_else(|| mistyped(field));
    match kind {
        Kind::Bool => put_integer(out, tag, i64::from(value.as_bool().ok_or_else(|| mistyped(field))?)),
        Kind::Int32 | Kind::Int64 => put_integer(out, tag, value.as_i64().ok_or_else(|| mistyped(field))?),
        Kind::String => put_bytes(out, tag, text()?.as_bytes()),
        Kind::Bytes => {
            let bytes = STANDARD.decode(text()?).map_err(|e| invalid(field, &e.to_string()))?;
            put_bytes(out, tag, &bytes);
        }
        Kind::Quantity => put_bytes(out, tag, &wrapped(text()?.as_bytes())),
        Kind::IntOrString => put_bytes(out, tag, &int_or_string(value, field)?),
        Kind::Time | Kind::MicroTime => put_bytes(out, tag, &time(text()?, field)?),
        Kind::RawExtension | Kind::FieldsV1 => put_bytes(out, tag, &wrapped(value.to_string().as_bytes())),
        Kind::Items => {
            let mut items = Vec::new();
            for item in value.as_array().ok_or_else(|| mistyped(field))? {
                put_bytes(&mut items, 1, item.as_str().ok_or_else(|| mistyped(field))?.as_bytes());
            }
            put_bytes(out, tag, &items);
        }
        Kind::Message(target) => {
            let definition = schema::definition(target).ok_or_else(|| mistyped(field))?;
            if !value.is_object() {
                return Err(mistyped(field));
            }
            put_bytes(out, tag, &nested(value, definition, None, depth + 1)?);
        }
        Kind::List(_) | Kind::Map(_) => return Err(mistyped(field)),
    }
    Ok(())
}

/// A message whose only field, number 1, holds the bytes.
fn wrapped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, bytes);
    out
}

fn int_or_string(value: &Value, field: &Field) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::new();
    match (value.as_i64(), value.as_str()) {
        (Some(number), _) => {
            put_integer(&mut out, 1, 0);
            put_integer(&mut out, 2, number);
            put_bytes(&mut out, 3, b"");
        }
        (_, Some(text)) => {
            put_integer(&mut out, 1, 1);
            put_integer(&mut out, 2, 0);
            put_bytes(&mut out, 3, text.as_bytes());
        }
        _ => return Err(mistyped(field)),
    }
    Ok(out)
}

fn time(text: &str, field: &Field) -> Result<Vec<u8>, ProtoError> {
    let time: Timestamp = text.parse().map_err(|e: jiff::Error| invalid(field, &e.to_string()))?;
    let mut out = Vec::new();
    // Nanoseconds count upwards from the second, also before 1970.
    let nanos = time.as_nanosecond();
    let (seconds, rest) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    put_integer(&mut out, 1, i64::try_from(seconds).unwrap_or(time.as_second()));
    put_integer(&mut out, 2, i64::try_from(rest).unwrap_or_default());
    Ok(out)
}

fn mistyped(field: &Field) -> ProtoError {
    invalid(field, &format!("is not a {}", field.go_type()))
}

fn invalid(field: &Field, reason: &str) -> ProtoError {
    ProtoError::Value { field: field.json_name.clone(), reason: reason.to_owned() }
}
