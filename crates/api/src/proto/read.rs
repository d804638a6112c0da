//! Protobuf to JSON, by the schema table. Not responsible for zero values: what was written is what comes out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{Reader, Wire};
use super::{Envelope, MAX_DEPTH, ProtoError};
use crate::schema::{self, Definition, Field, Kind};

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => {
                let mut reader = Reader::new(bytes);
                while let Some((number, wire)) = reader.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(bytes)) => envelope.api_version = text(bytes, "apiVersion")?,
                        (2, Wire::Bytes(bytes)) => envelope.kind = text(bytes, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => envelope.raw = bytes,
            (3, Wire::Bytes(bytes)) if !bytes.is_empty() => {
                return Err(ProtoError::Encoding(text(bytes, "contentEncoding")?));
            }
            (4, Wire::Bytes(bytes)) => envelope.content_type = text(bytes, "contentType")?,
            _ => {}
        }
    }
    Ok(envelope)
}

pub(super) fn message(bytes: &[u8], definition: &Definition) -> Result<Value, ProtoError> {
    let mut object = Map::new();
    fill(&mut object, bytes, definition, None, 0)?;
    Ok(Value::Object(object))
}

/// What a message at that depth answers.
#[cfg(test)]
pub(super) fn nested(depth: usize) -> Result<(), ProtoError> {
    let definition = schema::definition(schema::OBJECT_META).ok_or(ProtoError::TooDeep)?;
    fill(&mut Map::new(), &[], definition, None, depth)
}

/// Adds the fields of one message to `object`. `inline` is the number of the sub-message whose fields JSON has inline.
fn fill(
    object: &mut Map<String, Value>,
    bytes: &[u8],
    definition: &Definition,
    inline: Option<u32>,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > MAX_DEPTH {
        return Err(ProtoError::TooDeep);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let Some(field) =
            definition.fields.iter().find(|f| f.tag == number && number != 0 && f.outer_tag() == inline)
        {
            add(object, field, wire, depth)?;
        } else if inline.is_none()
            && let Wire::Bytes(inner) = wire
            && definition.fields.iter().any(|f| f.outer_tag() == Some(number))
        {
            fill(object, inner, definition, Some(number), depth + 1)?;
        }
    }
    Ok(())
}

fn add(object: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Result<(), ProtoError> {
    let name = &field.json_name;
    match &field.kind {
        Kind::List(element) => {
            let list = object.entry(name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (&**element, wire) {
                (Kind::Int32 | Kind::Int64, Wire::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        list.push(integer(element, reader.varint()?));
                    }
                }
                _ => list.push(value(element, wire, field, depth)?),
            }
        }
        Kind::Map(element) => {
            let (key, value) = entry(element, wire, field, depth)?;
            let map = object.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        Kind::Message(target) => {
            // A message that comes twice is merged.
            let nested = object.entry(name.as_str()).or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(nested), Some(definition)) = (nested, schema::definition(target)) {
                fill(nested, bytes_of(wire, field)?, definition, None, depth + 1)?;
            }
        }
        kind => {
            object.insert(name.clone(), value(kind, wire, field, depth)?);
        }
    }
    Ok(())
}

/// A map's entry: a message of key (1) and value (2).
fn entry(kind: &Kind, wire: Wire<'_>, field: &Field, depth: usize) -> Result<(String, Value), ProtoError> {
    let mut key = String::new();
    let mut found = None;
    let mut reader = Reader::new(bytes_of(wire, field)?);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = text(bytes_of(wire, field)?, &field.json_name)?,
            2 => found = Some(value(kind, wire, field, depth + 1)?),
            _ => {}
        }
    }
    let absent = match kind {
        Kind::String | Kind::Bytes => Value::from(""),
        _ => Value::Null,
    };
    Ok((key, found.unwrap_or(absent)))
}

fn value(kind: &Kind, wire: Wire<'_>, field: &Field, depth: usize) -> Result<Value, ProtoError> {
    match kind {
        Kind::Bool => Ok((varint_of(wire, field)? != 0).into()),
        Kind::Int32 | Kind::Int64 => Ok(integer(kind, varint_of(wire, field)?)),
        Kind::String => Ok(text(bytes_of(wire, field)?, &field.json_name)?.into()),
        Kind::Bytes => Ok(STANDARD.encode(bytes_of(wire, field)?).into()),
        Kind::Quantity => {
            let written = string_in(bytes_of(wire, field)?, 1, field)?;
            Ok(if written.is_empty() { "0".into() } else { written.into() })
        }
        Kind::IntOrString => int_or_string(bytes_of(wire, field)?, field),
        Kind::Time | Kind::MicroTime => time(kind, bytes_of(wire, field)?, field),
        Kind::RawExtension | Kind::FieldsV1 => raw(bytes_of(wire, field)?, field),
        Kind::Items => {
            let mut reader = Reader::new(bytes_of(wire, field)?);
            let mut items = Vec::new();
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    items.push(text(bytes_of(wire, field)?, &field.json_name)?.into());
                }
            }
            Ok(Value::Array(items))
        }
        Kind::Message(target) => {
            let mut nested = Map::new();
            if let Some(definition) = schema::definition(target) {
                fill(&mut nested, bytes_of(wire, field)?, definition, None, depth + 1)?;
            }
            Ok(Value::Object(nested))
        }
        // The table has no lists of lists and no lists in maps but `Items`.
        Kind::List(_) | Kind::Map(_) => Err(invalid(field, "a list or map where a single value belongs")),
    }
}

/// Varints carry 64 bits; an int32 is their lower half.
fn integer(kind: &Kind, varint: u64) -> Value {
    let number = varint.cast_signed();
    if *kind == Kind::Int32 { (number as i32).into() } else { number.into() }
}

fn int_or_string(bytes: &[u8], field: &Field) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut written) = (false, 0_i32, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next()? {
        match tag {
            1 => is_text = varint_of(wire, field)? != 0,
            2 => number = varint_of(wire, field)?.cast_signed() as i32,
            3 => written = text(bytes_of(wire, field)?, &field.json_name)?,
            _ => {}
        }
    }
    Ok(if is_text { written.into() } else { number.into() })
}

/// No bytes at all is Go's zero time, which JSON writes as null.
fn time(kind: &Kind, bytes: &[u8], field: &Field) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.next()? {
        match tag {
            1 => seconds = varint_of(wire, field)?.cast_signed(),
            2 => nanos = varint_of(wire, field)?.cast_signed() as i32,
            _ => {}
        }
    }
    let nanos = if *kind == Kind::MicroTime { nanos } else { 0 };
    let time = Timestamp::new(seconds, nanos).map_err(|e| invalid(field, &e.to_string()))?;
    Ok(if *kind == Kind::MicroTime { crate::time::format_micro(time) } else { crate::time::format(time) }.into())
}

/// JSON inside a message: `raw` is number 1 in both RawExtension and FieldsV1.
fn raw(bytes: &[u8], field: &Field) -> Result<Value, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut found = Value::Null;
    while let Some((number, wire)) = reader.next()? {
        let inner = bytes_of(wire, field)?;
        if number == 1 && !inner.is_empty() {
            found = serde_json::from_slice(inner).map_err(|e| invalid(field, &e.to_string()))?;
        }
    }
    Ok(found)
}

fn string_in(bytes: &[u8], number: u32, field: &Field) -> Result<String, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut found = String::new();
    while let Some((tag, wire)) = reader.next()? {
        if tag == number {
            found = text(bytes_of(wire, field)?, &field.json_name)?;
        }
    }
    Ok(found)
}

fn text(bytes: &[u8], field: &str) -> Result<String, ProtoError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtoError::NotText(field.to_owned()))
}

fn bytes_of<'a>(wire: Wire<'a>, field: &Field) -> Result<&'a [u8], ProtoError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        other => Err(ProtoError::WireType { field: field.tag, wire: other.number() }),
    }
}

fn varint_of(wire: Wire<'_>, field: &Field) -> Result<u64, ProtoError> {
    match wire {
        Wire::Varint(value) => Ok(value),
        other => Err(ProtoError::WireType { field: field.tag, wire: other.number() }),
    }
}

fn invalid(field: &Field, reason: &str) -> ProtoError {
    ProtoError::Value { field: field.json_name.clone(), reason: reason.to_owned() }
}
