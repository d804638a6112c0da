//! The forms of an answer about objects: the object, a list, a Table, metadata only; and watch events of each.
//!
//! Columns and cells are the kinds' own. Not responsible for choosing the form (`negotiate`).

use api::Resource;
use api::decode;
use api::schema;
use api::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::negotiate::Form;
use crate::registry::Listed;

/// What a Table row carries besides its cells (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    Nothing,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub fn parse(text: Option<&str>) -> Result<Self, Box<Status>> {
        match text {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::Nothing),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Box::new(Status::bad_request(format!(
                "unrecognized includeObject value: {other:?}; use None, Metadata or Object"
            )))),
        }
    }
}

/// How objects of a kind are shown to one client.
#[derive(Clone, Copy)]
pub struct Renderer {
    pub resource: &'static Resource,
    pub form: Form,
    pub include: Include,
    pub now: Timestamp,
}

impl Renderer {
    /// One object.
    pub fn object(&self, object: Value) -> Value {
        match self.form {
            Form::Object => self.served(object),
            Form::Metadata => partial(&object),
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.table(version, metadata, true, std::slice::from_ref(&object))
            }
        }
    }

    fn served(&self, mut object: Value) -> Value {
        self.resource.strategy.to_served(&mut object);
        object
    }

    /// An object as a member of a list, whose kind says what its members are.
    fn listed(&self, object: Value) -> Value {
        let mut object = self.served(object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        object
    }

    /// A list, as the bytes of its JSON.
    pub fn list(&self, listed: &Listed) -> Vec<u8> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), listed.revision.to_string().into());
        if !listed.token.is_empty() {
            metadata.insert("continue".to_owned(), listed.token.clone().into());
        }
        if let Some(remaining) = listed.remaining {
            metadata.insert("remainingItemCount".to_owned(), remaining.into());
        }
        let metadata = Value::Object(metadata);
        match self.form {
            Form::Table(version) => self.table(version, metadata, true, &listed.items).to_string().into_bytes(),
            Form::Metadata => {
                let items = listed.items.iter().map(partial);
                joined("PartialObjectMetadataList", "meta.k8s.io/v1", &metadata, items)
            }
            Form::Object => {
                let kind = format!("{}List", self.resource.kind);
                joined(
                    &kind,
                    &self.resource.api_version(),
                    &metadata,
                    listed.items.iter().map(|item| self.listed(item.clone())),
                )
            }
        }
    }

    /// The `object` of a watch event; only the first Table says what its columns are.
    pub fn event(&self, object: Value, first: bool) -> Value {
        match self.form {
            Form::Table(version) => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                self.table(version, metadata, first, std::slice::from_ref(&object))
            }
            _ => self.object(object),
        }
    }

    /// The `object` of a BOOKMARK event: one of the kind that says nothing but a revision, and a note that the initial
    /// events have ended. A Table has a row for it, as upstream's has.
    pub fn bookmark(&self, revision: store::Revision, initial_end: bool, first: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let stored = self.resource.strategy.stored().unwrap_or(self.resource);
        let mut object = json!({"kind": stored.kind, "apiVersion": stored.api_version(), "metadata": metadata});
        let definition = schema::definition(stored.definition);
        let shaped = definition.and_then(|it| decode::value(object.clone(), it, decode::Mode::Ignore).ok());
        if let Some(shaped) = shaped {
            object = shaped.object;
        }
        if stored.subresource("scale").is_some() {
            // Upstream's is made of types of its own, in which this is a number that is always there.
            object["spec"]["replicas"] = 0.into();
        }
        let mut event = self.event(object, first);
        let cells = event.pointer_mut("/rows/0/cells").and_then(Value::as_array_mut);
        cells.into_iter().flatten().filter(|cell| cell.is_null()).for_each(|cell| *cell = "".into());
        event
    }

    fn table(&self, version: &str, metadata: Value, headers: bool, objects: &[Value]) -> Value {
        let strategy = self.resource.strategy;
        let columns: Vec<Value> = strategy
            .columns()
            .iter()
            .map(|column| {
                json!({
                    "name": column.name,
                    "type": column.kind,
                    "format": column.format,
                    "description": column.description,
                    "priority": column.priority,
                })
            })
            .collect();
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let mut row = json!({"cells": strategy.cells(object, self.now)});
                match self.include {
                    Include::Nothing => {}
                    Include::Metadata => row["object"] = partial(object),
                    Include::Object => row["object"] = self.served(object.clone()),
                }
                row
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "columnDefinitions": if headers { Value::Array(columns) } else { Value::Null },
            "rows": rows,
        })
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A list's JSON, written item by item: a list is never one big tree.
fn joined(kind: &str, api_version: &str, metadata: &Value, items: impl Iterator<Item = Value>) -> Vec<u8> {
    let mut out =
        format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[", json!(kind), json!(api_version))
            .into_bytes();
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        // Writing a value to memory can't fail.
        let _ = serde_json::to_writer(&mut out, &item);
    }
    out.extend_from_slice(b"]}");
    out
}
