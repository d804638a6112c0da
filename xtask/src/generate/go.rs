//! Reads the struct declarations of a gofmt-formatted Go file: names, tags, marker comments, imports, enumerations.
//! Not a Go parser, and not responsible for what the markers mean.

use std::collections::{BTreeMap, BTreeSet};

/// What one `types.go` declares.
#[derive(Default)]
pub struct File {
    /// Import alias → path.
    pub imports: BTreeMap<String, String>,
    pub structs: Vec<Struct>,
    /// Named types that aren't structs: name → underlying type.
    pub named: BTreeMap<String, String>,
    /// Types marked `+enum`, with the values of their constants in order of declaration.
    pub enums: BTreeMap<String, Vec<String>>,
    /// String constants, for `+default=ref(Name)`.
    pub constants: BTreeMap<String, String>,
}

pub struct Struct {
    pub name: String,
    pub markers: Vec<Marker>,
    pub fields: Vec<Field>,
}

pub struct Field {
    /// The Go type as written: `*int32`, `[]ServicePort`.
    pub go_type: String,
    /// Struct tag key → value: `json`, `protobuf`, `patchStrategy` …
    pub tags: BTreeMap<String, String>,
    pub markers: Vec<Marker>,
}

/// A comment `// +name=value`.
#[derive(Clone)]
pub struct Marker {
    pub name: String,
    pub value: String,
}

/// The first value of a marker.
pub fn marker<'a>(markers: &'a [Marker], name: &str) -> Option<&'a str> {
    markers.iter().find(|m| m.name == name).map(|m| m.value.as_str())
}

pub fn parse(text: &str) -> File {
    let mut file = File::default();
    let mut markers = Vec::new();
    let mut marked_enum = BTreeSet::new();
    let mut current: Option<Struct> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(found) = read_marker(trimmed) {
            markers.push(found);
            continue;
        }
        if trimmed.starts_with("//") {
            continue;
        }
        if let Some(open) = &mut current {
            if line == "}" {
                file.structs.extend(current.take());
            } else if let Some(field) = read_field(trimmed, &markers) {
                open.fields.push(field);
            }
        } else if let Some(declared) = line.strip_prefix("type ") {
            declaration(declared, &mut markers, &mut file, &mut marked_enum, &mut current);
        } else {
            read_import(trimmed, &mut file.imports);
            read_constant(trimmed, &mut file);
        }
        // A blank line between markers and a type doesn't part them for upstream's generators (`+enum`, `+structType`).
        if !trimmed.is_empty() {
            markers.clear();
        }
    }
    collect_enums(text, &marked_enum, &mut file);
    file
}

fn declaration(
    declared: &str,
    markers: &mut Vec<Marker>,
    file: &mut File,
    marked_enum: &mut BTreeSet<String>,
    current: &mut Option<Struct>,
) {
    let Some((name, rest)) = declared.split_once(' ') else { return };
    if rest == "struct {" {
        *current = Some(Struct { name: name.to_owned(), markers: std::mem::take(markers), fields: Vec::new() });
        return;
    }
    if marker(markers, "enum").is_some() {
        marked_enum.insert(name.to_owned());
    }
    file.named.insert(name.to_owned(), rest.trim_start_matches("= ").to_owned());
}

fn read_marker(trimmed: &str) -> Option<Marker> {
    let text = trimmed.strip_prefix("// +")?;
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    Some(Marker { name: name.trim().to_owned(), value: value.trim().to_owned() })
}

fn read_field(trimmed: &str, markers: &[Marker]) -> Option<Field> {
    let (declared, rest) = trimmed.split_once('`')?;
    let tags = read_tags(rest.split_once('`')?.0);
    let mut words = declared.split_whitespace();
    let first = words.next()?;
    let second = words.next();
    Some(Field { go_type: second.unwrap_or(first).to_owned(), tags, markers: markers.to_vec() })
}

fn read_tags(text: &str) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once(":\"") {
        let Some((value, tail)) = after.split_once('"') else { break };
        tags.insert(key.trim().to_owned(), value.to_owned());
        rest = tail.trim_start();
    }
    tags
}

fn read_import(trimmed: &str, imports: &mut BTreeMap<String, String>) {
    let Some((alias, rest)) = trimmed.split_once('"') else { return };
    let Some((path, "")) = rest.split_once('"') else { return };
    if !path.starts_with("k8s.io/") || alias.contains('=') {
        return;
    }
    let alias = match alias.trim() {
        "" => path.rsplit('/').next().unwrap_or(path),
        named => named,
    };
    imports.insert(alias.to_owned(), path.to_owned());
}

fn read_constant(trimmed: &str, file: &mut File) {
    if let Some((name, _, value)) = constant(trimmed) {
        file.constants.insert(name.to_owned(), value.to_owned());
    }
}

/// `Name Type = "value"` → its three parts.
fn constant(trimmed: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = trimmed.split_once('=')?;
    let value = right.trim().strip_prefix('"')?.split_once('"')?.0;
    let mut words = left.trim().trim_start_matches("const ").split_whitespace();
    Some((words.next()?, words.next().unwrap_or(""), value))
}

fn collect_enums(text: &str, marked: &BTreeSet<String>, file: &mut File) {
    for line in text.lines() {
        let Some((_, kind, value)) = constant(line.trim()) else { continue };
        if marked.contains(kind) {
            let values = file.enums.entry(kind.to_owned()).or_default();
            if !values.iter().any(|v| v == value) {
                values.push(value.to_owned());
            }
        }
    }
}
