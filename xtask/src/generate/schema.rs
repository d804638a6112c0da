//! Writes `crates/api/src/schema/definitions.txt`: the facts of every API type (JSON names, protobuf tags, list and map
//! types, merge keys, defaults), read from upstream's Go type declarations. Descriptions are left out on purpose: they
//! come from the dependency `k8s-openapi` at runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::go::{self, Field, marker};
use super::{VERSION, workspace_root};

const TARGET: &str = "crates/api/src/schema/definitions.txt";

/// Go package path, below the two modules. One line serves another group-version.
const PACKAGES: &[&str] = &[
    "k8s.io/apimachinery/pkg/apis/meta/v1",
    "k8s.io/api/core/v1",
    "k8s.io/api/apps/v1",
    "k8s.io/api/batch/v1",
    "k8s.io/api/discovery/v1",
    "k8s.io/api/networking/v1",
    "k8s.io/api/coordination/v1",
    "k8s.io/api/events/v1",
    "k8s.io/api/policy/v1",
    "k8s.io/api/rbac/v1",
    "k8s.io/api/authentication/v1",
    "k8s.io/api/authorization/v1",
    "k8s.io/api/autoscaling/v1",
];

const HEADER: &str = "\
# Facts about the Kubernetes API types: names, protobuf tags, list and map types, merge keys, defaults, enumerations.
# Read from the Go modules k8s.io/api and k8s.io/apimachinery, version VERSION (Apache-2.0, The Kubernetes Authors).
# Written by `cargo xtask generate schema`; do not edit. How to read it: crates/api/src/schema/table.rs.
";

/// Types with a JSON or protobuf form of their own.
const SPECIAL: &[(&str, &str)] = &[
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Time", "time"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime", "microTime"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Duration", "duration"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1", "fieldsV1"),
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", "quantity"),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", "intOrString"),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", "rawExtension"),
    ("k8s.io/apimachinery/pkg/runtime.Object", "rawExtension"),
    ("k8s.io/apimachinery/pkg/types.UID", "string"),
    ("k8s.io/apimachinery/pkg/types.NodeName", "string"),
];

pub fn run(check: bool) -> anyhow::Result<()> {
    let text = Generator::load()?.write()?;
    let target = workspace_root().join(TARGET);
    if check {
        let committed = std::fs::read_to_string(&target).with_context(|| format!("reading {TARGET}"))?;
        if committed != text {
            bail!("{TARGET} differs from what `cargo xtask generate schema` writes");
        }
        return Ok(());
    }
    std::fs::write(&target, text).with_context(|| format!("writing {TARGET}"))
}

struct Generator {
    /// Package path → what its `types.go` declares.
    files: BTreeMap<&'static str, go::File>,
    /// Package path → message → protobuf field name → tag, from `generated.proto`: the check on what we read.
    protos: BTreeMap<&'static str, BTreeMap<(String, String), u32>>,
}

impl Generator {
    fn load() -> anyhow::Result<Self> {
        let api = module("k8s.io/api")?;
        let machinery = module("k8s.io/apimachinery")?;
        let mut files = BTreeMap::new();
        let mut protos = BTreeMap::new();
        for package in PACKAGES {
            let directory = match package.strip_prefix("k8s.io/api/") {
                Some(rest) => api.join(rest),
                None => machinery.join(package.trim_start_matches("k8s.io/apimachinery/")),
            };
            let types = directory.join("types.go");
            let text = std::fs::read_to_string(&types).with_context(|| format!("reading {}", types.display()))?;
            files.insert(*package, go::parse(&text));
            let proto = directory.join("generated.proto");
            let text = std::fs::read_to_string(&proto).with_context(|| format!("reading {}", proto.display()))?;
            protos.insert(*package, proto_tags(&text));
        }
        Ok(Generator { files, protos })
    }

    fn write(&self) -> anyhow::Result<String> {
        let mut out = HEADER.replace("VERSION", VERSION);
        for (package, file) in &self.files {
            writeln!(out, "package {}", openapi_package(package))?;
            for (name, values) in &file.enums {
                let values: BTreeSet<&str> = values.iter().map(String::as_str).collect();
                let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
                writeln!(out, "enum {name} [{}]", quoted.join(","))?;
            }
            for declared in &file.structs {
                match self.definition(package, declared) {
                    Ok(text) => out.push_str(&text),
                    Err(Unsupported(why)) => eprintln!("left out {package}.{}: {why}", declared.name),
                }
            }
        }
        Ok(out)
    }

    fn definition(&self, package: &str, declared: &go::Struct) -> Result<String, Unsupported> {
        let atomic = marker(&declared.markers, "structType") == Some("atomic");
        let mut out = format!("struct {}{}\n", declared.name, if atomic { " atomic" } else { "" });
        if !declared.fields.iter().any(|f| f.tags.contains_key("json")) {
            return Err(Unsupported("no JSON fields".to_owned()));
        }
        for field in &declared.fields {
            self.field(package, declared, field, None, &mut out)?;
        }
        Ok(out)
    }

    fn field(
        &self,
        package: &str,
        owner: &go::Struct,
        field: &Field,
        inline: Option<&str>,
        out: &mut String,
    ) -> Result<(), Unsupported> {
        let json = field.tags.get("json").map(String::as_str).unwrap_or("-");
        let (name, options) = json.split_once(',').unwrap_or((json, ""));
        if name == "-" {
            return Ok(());
        }
        let tag = self.tag(package, owner, field)?;
        if options.split(',').any(|o| o == "inline") {
            return self.inlined(package, field, tag, inline, out);
        }
        let omitempty = options.split(',').any(|o| o == "omitempty");
        let mut attributes = Attributes::read(field);
        let kind = self.kind(package, field.go_type.trim_start_matches('*'), &mut attributes)?;
        let optional =
            marker(&field.markers, "optional").is_some() || (marker(&field.markers, "required").is_none() && omitempty);
        let mut flags = String::new();
        flags.push(if optional { 'o' } else { 'r' });
        if omitempty {
            flags.push('e');
        }
        if options.split(',').any(|o| o == "omitzero") {
            flags.push('z');
        }
        if field.go_type.starts_with('*') {
            flags.push('p');
        }
        if let Some(outer) = inline {
            attributes.push("inline", outer);
        }
        if let Some(default) = marker(&field.markers, "default") {
            attributes.push("default", &self.default_value(package, default)?);
        }
        out.push_str(&format!("\t{name} {tag} {flags} {kind}{}\n", attributes.0));
        Ok(())
    }

    /// An embedded struct: its fields are the owner's in JSON, and a sub-message in protobuf.
    fn inlined(
        &self,
        package: &str,
        field: &Field,
        tag: u32,
        inline: Option<&str>,
        out: &mut String,
    ) -> Result<(), Unsupported> {
        if inline.is_some() {
            return Err(Unsupported(format!("{} is inlined twice", field.go_type)));
        }
        let full = self.resolve(package, &field.go_type)?;
        if full.ends_with(".TypeMeta") {
            // In protobuf the envelope carries these two.
            out.push_str("\tkind 0 oe string\n\tapiVersion 0 oe string\n");
            return Ok(());
        }
        let (target, name) = full.rsplit_once('.').unwrap_or(("", &full));
        let inner = self.files.get(target).and_then(|f| f.structs.iter().find(|s| s.name == name));
        let inner = inner.ok_or_else(|| Unsupported(format!("{full} is inlined but not declared")))?;
        let outer = format!("{tag}:{name}");
        for field in &inner.fields {
            self.field(target, inner, field, Some(&outer), out)?;
        }
        Ok(())
    }

    /// The protobuf tag of a field; the `.proto` file must agree.
    fn tag(&self, package: &str, owner: &go::Struct, field: &Field) -> Result<u32, Unsupported> {
        let Some(protobuf) = field.tags.get("protobuf") else {
            return if field.go_type.ends_with("TypeMeta") {
                Ok(0)
            } else {
                Err(Unsupported(format!("{} has no protobuf tag", field.go_type)))
            };
        };
        let mut parts = protobuf.split(',');
        let tag = parts.nth(1).and_then(|t| t.parse().ok());
        let tag = tag.ok_or_else(|| Unsupported(format!("protobuf tag {protobuf:?}")))?;
        let name = parts.find_map(|p| p.strip_prefix("name="));
        if let Some(name) = name {
            let published = self.protos.get(package).and_then(|p| p.get(&(owner.name.clone(), name.to_owned())));
            if published != Some(&tag) {
                return Err(Unsupported(format!("field {name} has tag {tag}, its .proto says {published:?}")));
            }
        }
        Ok(tag)
    }

    fn resolve(&self, package: &str, go_type: &str) -> Result<String, Unsupported> {
        match go_type.split_once('.') {
            None => Ok(format!("{package}.{go_type}")),
            Some((alias, name)) => {
                let path = self.files.get(package).and_then(|f| f.imports.get(alias));
                path.map(|p| format!("{p}.{name}")).ok_or_else(|| Unsupported(format!("unknown import {alias}")))
            }
        }
    }

    /// The table's spelling of a Go type.
    fn kind(&self, package: &str, go_type: &str, attributes: &mut Attributes) -> Result<String, Unsupported> {
        if let Some(element) = go_type.strip_prefix("[]") {
            return match element {
                "byte" => Ok("bytes".to_owned()),
                _ => Ok(format!("[]{}", self.kind(package, element.trim_start_matches('*'), attributes)?)),
            };
        }
        if let Some(rest) = go_type.strip_prefix("map[") {
            let (_, value) = rest.split_once(']').ok_or_else(|| Unsupported(go_type.to_owned()))?;
            return Ok(format!("map[]{}", self.kind(package, value, attributes)?));
        }
        match go_type {
            "string" | "int32" | "int64" | "bool" => return Ok(go_type.to_owned()),
            "float64" => return Ok("double".to_owned()),
            "interface{}" | "any" => return Err(Unsupported("holds any value".to_owned())),
            _ => {}
        }
        let full = self.resolve(package, go_type)?;
        if let Some((_, kind)) = SPECIAL.iter().find(|(name, _)| *name == full) {
            if *kind == "string" {
                attributes.push("go", go_type);
            }
            return Ok((*kind).to_owned());
        }
        let (target, name) = full.rsplit_once('.').unwrap_or(("", &full));
        let file = self.files.get(target).ok_or_else(|| Unsupported(format!("{full} is in no package read")))?;
        if let Some(underlying) = file.named.get(name) {
            return self.named(package, target, name, underlying, attributes);
        }
        if !file.structs.iter().any(|s| s.name == name) {
            return Err(Unsupported(format!("{full} is not declared")));
        }
        Ok(if target == package { name.to_owned() } else { format!("{}.{name}", openapi_package(target)) })
    }

    /// A named type that isn't a struct: errors print its Go name, and it may be an enumeration.
    fn named(
        &self,
        package: &str,
        target: &str,
        name: &str,
        underlying: &str,
        attributes: &mut Attributes,
    ) -> Result<String, Unsupported> {
        if underlying == "[]string" && matches!(name, "ExtraValue" | "Verbs") {
            return Ok("items".to_owned());
        }
        if let Some(aliased) = self.files.get(target).and_then(|f| f.named.get(underlying)) {
            return self.named(package, target, underlying, aliased, attributes);
        }
        let enumerated = self.files.get(target).is_some_and(|f| f.enums.contains_key(name));
        let mut inner = Attributes::default();
        let kind = self.kind(target, underlying, &mut inner)?;
        attributes.push("go", &format!("v1.{name}"));
        if enumerated {
            let local = target == package;
            let full = if local { name.to_owned() } else { format!("{}.{name}", openapi_package(target)) };
            attributes.push("enum", &full);
        }
        Ok(kind)
    }

    fn default_value(&self, package: &str, marker: &str) -> Result<String, Unsupported> {
        let Some(constant) = marker.strip_prefix("ref(").and_then(|r| r.strip_suffix(')')) else {
            return Ok(marker.to_owned());
        };
        let value = self.files.get(package).and_then(|f| f.constants.get(constant));
        value.map(|v| format!("{v:?}")).ok_or_else(|| Unsupported(format!("unknown constant {constant}")))
    }
}

/// Why a type is left out of the table.
struct Unsupported(String);

/// ` key=value` pairs at a line's end.
#[derive(Default)]
struct Attributes(String);

impl Attributes {
    fn read(field: &Field) -> Self {
        let mut attributes = Attributes::default();
        let marked = |name: &str| marker(&field.markers, name).map(str::to_owned);
        let tagged = |name: &str| field.tags.get(name).cloned().or_else(|| marked(name));
        for (key, value) in [
            ("list", marked("listType")),
            ("map", marked("mapType").or_else(|| marked("structType"))),
            ("merge", tagged("patchMergeKey")),
            ("strategy", tagged("patchStrategy")),
        ] {
            if let Some(value) = value {
                attributes.push(key, &value);
            }
        }
        let keys: Vec<&str> =
            field.markers.iter().filter(|m| m.name == "listMapKey").map(|m| m.value.as_str()).collect();
        if !keys.is_empty() {
            attributes.push("keys", &keys.join(","));
        }
        attributes
    }

    fn push(&mut self, key: &str, value: &str) {
        self.0.push_str(&format!(" {key}={value}"));
    }
}

/// `k8s.io/api/core/v1` as OpenAPI spells it: `io.k8s.api.core.v1`.
fn openapi_package(package: &str) -> String {
    format!("io.k8s.{}", package.trim_start_matches("k8s.io/").replace('/', "."))
}

fn proto_tags(text: &str) -> BTreeMap<(String, String), u32> {
    let mut tags = BTreeMap::new();
    let mut message = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix("message ") {
            message = name.trim_end_matches([' ', '{']).to_owned();
        } else if let Some((left, tag)) = trimmed.strip_suffix(';').and_then(|l| l.split_once(" = ")) {
            let name = left.rsplit(' ').next().unwrap_or(left);
            if let Ok(tag) = tag.parse() {
                tags.insert((message.clone(), name.to_owned()), tag);
            }
        }
    }
    tags
}

/// Where `go mod download` put a module's files.
fn module(path: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("{path}@{VERSION}")])
        .current_dir(std::env::temp_dir())
        .output()
        .context("running `go mod download` (Go is needed to generate the schema table)")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("reading go's answer")?;
    match answer["Dir"].as_str() {
        Some(directory) if output.status.success() => Ok(directory.into()),
        _ => bail!("go mod download {path}@{VERSION}: {}", answer["Error"]),
    }
}
