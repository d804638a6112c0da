//! Reads `definitions.txt`, the text form of the schema table. Not responsible for what the facts mean.
//!
//! ```text
//! package io.k8s.api.core.v1           names below are in this package unless they have dots
//! enum Protocol ["SCTP","TCP","UDP"]   a closed set of strings, as JSON
//! struct ObjectReference atomic        a definition; `atomic`: +structType=atomic
//! <tab>protocol 2 oe string enum=Protocol default="TCP"
//!      │        │ │  │      └ attributes: list, keys, map, merge, strategy, inline, go, enum, default (JSON, last)
//!      │        │ │  └ kind: a scalar in lower case, a definition, `[]…`, `map[]…`
//!      │        │ └ r required | o optional, e omitempty, z omitzero, p pointer
//!      │        └ protobuf number, 0 for none
//!      └ JSON name
//! ```

use std::collections::HashMap;

use super::{Definition, Field, Inline, Kind, ListType};

/// A line that doesn't follow the form.
#[derive(Debug, thiserror::Error)]
#[error("schema table, line {line}: {mistake}")]
pub(super) struct TableError {
    line: usize,
    mistake: &'static str,
}

#[derive(Default)]
struct Reader<'t> {
    package: &'t str,
    enums: HashMap<String, Vec<String>>,
    definitions: Vec<Definition>,
}

pub(super) fn parse(text: &str) -> Result<HashMap<String, Definition>, TableError> {
    let mut reader = Reader::default();
    // Enumerations may be used before the package that declares them.
    for pass in [Reader::read_enum, Reader::read_definition] {
        for (index, line) in text.lines().enumerate() {
            pass(&mut reader, line).map_err(|mistake| TableError { line: index + 1, mistake })?;
        }
    }
    Ok(reader.definitions.into_iter().map(|d| (d.name.clone(), d)).collect())
}

impl<'t> Reader<'t> {
    fn read_enum(&mut self, line: &'t str) -> Result<(), &'static str> {
        if let Some(package) = line.strip_prefix("package ") {
            self.package = package;
        } else if let Some(rest) = line.strip_prefix("enum ") {
            let (name, values) = rest.split_once(' ').ok_or("an enum needs values")?;
            let values = serde_json::from_str(values).map_err(|_| "an enum's values are a JSON list")?;
            self.enums.insert(self.qualified(name), values);
        }
        Ok(())
    }

    fn read_definition(&mut self, line: &'t str) -> Result<(), &'static str> {
        if let Some(package) = line.strip_prefix("package ") {
            self.package = package;
        } else if let Some(rest) = line.strip_prefix("struct ") {
            let (name, flag) = rest.split_once(' ').unwrap_or((rest, ""));
            let name = self.qualified(name);
            self.definitions.push(Definition { name, fields: Vec::new(), atomic: flag == "atomic" });
        } else if let Some(rest) = line.strip_prefix('\t') {
            let field = self.read_field(rest)?;
            self.definitions.last_mut().ok_or("a field outside a struct")?.fields.push(field);
        }
        Ok(())
    }

    fn qualified(&self, name: &str) -> String {
        if name.contains('.') { name.to_owned() } else { format!("{}.{name}", self.package) }
    }

    fn read_field(&self, line: &str) -> Result<Field, &'static str> {
        let (line, default) = match line.split_once(" default=") {
            Some((line, json)) => (line, Some(serde_json::from_str(json).map_err(|_| "a default is JSON")?)),
            None => (line, None),
        };
        let mut words = line.split(' ');
        let name = words.next().ok_or("a field needs a name")?;
        let tag = words.next().and_then(|w| w.parse().ok()).ok_or("a field needs a number")?;
        let flags = words.next().ok_or("a field needs flags")?;
        let kind = self.kind(words.next().ok_or("a field needs a kind")?)?;
        let mut field = Field {
            json_name: name.to_owned(),
            tag,
            inline: None,
            kind,
            required: flags.contains('r'),
            omitempty: flags.contains('e'),
            omitzero: flags.contains('z'),
            pointer: flags.contains('p'),
            list_type: None,
            list_map_keys: Vec::new(),
            map_atomic: false,
            patch_merge_key: None,
            patch_strategy: Vec::new(),
            default,
            enumeration: Vec::new(),
            go_name: None,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or("an attribute needs a value")?;
            self.attribute(&mut field, key, value)?;
        }
        Ok(field)
    }

    fn attribute(&self, field: &mut Field, key: &str, value: &str) -> Result<(), &'static str> {
        let list = || value.split(',').map(str::to_owned).collect();
        match key {
            "list" => field.list_type = Some(list_type(value)?),
            "keys" => field.list_map_keys = list(),
            "map" => field.map_atomic = value == "atomic",
            "merge" => field.patch_merge_key = Some(value.to_owned()),
            "strategy" => field.patch_strategy = list(),
            "inline" => {
                let (tag, name) = value.split_once(':').ok_or("inline is number:Name")?;
                let tag = tag.parse().map_err(|_| "inline is number:Name")?;
                field.inline = Some(Inline { tag, name: name.to_owned() });
            }
            "go" => field.go_name = Some(value.to_owned()),
            "enum" => field.enumeration = self.enums.get(&self.qualified(value)).cloned().unwrap_or_default(),
            _ => return Err("unknown attribute"),
        }
        Ok(())
    }

    fn kind(&self, word: &str) -> Result<Kind, &'static str> {
        if let Some(element) = word.strip_prefix("[]") {
            return Ok(Kind::List(Box::new(self.kind(element)?)));
        }
        if let Some(element) = word.strip_prefix("map[]") {
            return Ok(Kind::Map(Box::new(self.kind(element)?)));
        }
        Ok(match word {
            "string" => Kind::String,
            "int32" => Kind::Int32,
            "int64" => Kind::Int64,
            "bool" => Kind::Bool,
            "bytes" => Kind::Bytes,
            "quantity" => Kind::Quantity,
            "intOrString" => Kind::IntOrString,
            "time" => Kind::Time,
            "microTime" => Kind::MicroTime,
            "rawExtension" => Kind::RawExtension,
            "fieldsV1" => Kind::FieldsV1,
            "items" => Kind::Items,
            message if message.contains('.') || message.starts_with(char::is_uppercase) => {
                Kind::Message(self.qualified(message))
            }
            _ => return Err("unknown kind"),
        })
    }
}

fn list_type(word: &str) -> Result<ListType, &'static str> {
    match word {
        "atomic" => Ok(ListType::Atomic),
        "set" => Ok(ListType::Set),
        "map" => Ok(ListType::Map),
        _ => Err("unknown list type"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn reads_the_documented_form() {
        let text = "package a.v1\nstruct S atomic\n\tprotocol 2 oep []string list=set enum=P default=\"T C\"\n\
                    package b.v1\nenum P [\"T C\"]\n";
        let text = text.replace("enum=P", "enum=b.v1.P");
        let table = parse(&text).unwrap();
        let field = &table["a.v1.S"].fields[0];
        assert!(table["a.v1.S"].atomic && field.omitempty && field.pointer && !field.required);
        assert_eq!(field.list_type, Some(ListType::Set));
        assert_eq!(field.kind, Kind::List(Box::new(Kind::String)));
        assert_eq!(field.enumeration, ["T C"]);
        assert_eq!(field.default, Some(Value::from("T C")));
    }

    #[test]
    fn names_the_line_of_a_mistake() {
        let mistake = parse("package a\nstruct S\n\tx 1 o strange\n").unwrap_err();
        assert_eq!(mistake.to_string(), "schema table, line 3: unknown kind");
    }
}
