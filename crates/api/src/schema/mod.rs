//! The compiled schema table: for every API type its fields with JSON name, protobuf tag, kind, list and map strategy,
//! merge keys and defaults. One table drives decoding, protobuf, patches and OpenAPI.
//!
//! Not responsible for descriptions (`openapi` joins them from `k8s-openapi`) nor for what values are valid.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

mod table;

/// `metadata` of every object.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// An API type: `io.k8s.api.core.v1.ServiceSpec`.
#[derive(Debug)]
pub struct Definition {
    pub name: String,
    /// In order of declaration; the fields of inlined structs stand among them.
    pub fields: Vec<Field>,
    /// Server-side apply and merges treat the whole struct as one value (`+structType=atomic`).
    pub atomic: bool,
}

/// One JSON field of a `Definition`.
#[derive(Debug)]
pub struct Field {
    pub json_name: String,
    /// Protobuf field number; 0 when protobuf carries the field in the envelope (`kind`, `apiVersion`).
    pub tag: u32,
    /// The struct that Go embeds and JSON has inline (`VolumeSource` in `Volume`), if the field is one of its.
    pub inline: Option<Inline>,
    pub kind: Kind,
    pub required: bool,
    /// Go leaves the field out when it has its zero value.
    pub omitempty: bool,
    /// Go leaves it out when it is zero, structs and times as well.
    pub omitzero: bool,
    /// A pointer in Go: absent differs from zero.
    pub pointer: bool,
    pub list_type: Option<ListType>,
    pub list_map_keys: Vec<String>,
    /// The map or struct is one value to server-side apply (`+mapType=atomic`).
    pub map_atomic: bool,
    pub patch_merge_key: Option<String>,
    /// `merge`, `replace`, `retainKeys`.
    pub patch_strategy: Vec<String>,
    pub default: Option<Value>,
    /// The values of a closed set, sorted; empty when the set is open.
    pub enumeration: Vec<String>,
    /// The Go name of a named string or map (`v1.Protocol`), for error messages.
    pub go_name: Option<String>,
}

/// An embedded Go struct: in protobuf a sub-message, in JSON part of its owner.
#[derive(Debug, PartialEq, Eq)]
pub struct Inline {
    /// The sub-message's field number.
    pub tag: u32,
    /// `VolumeSource`
    pub name: String,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Int32,
    Int64,
    Bool,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// Any JSON value.
    RawExtension,
    FieldsV1,
    /// A list of strings that protobuf wraps in a message (`Verbs`, `ExtraValue`).
    Items,
    /// Another definition, by its full name.
    Message(String),
    List(Box<Kind>),
    /// Keys are strings.
    Map(Box<Kind>),
}

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// The definition of that name, in OpenAPI's spelling.
pub fn definition(name: &str) -> Option<&'static Definition> {
    definitions().get(name)
}

/// The definition of a kind: packages are named after the first word of the group.
pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<&'static Definition> {
    let package = match group.split('.').next() {
        None | Some("") => "core",
        Some(word) => word,
    };
    definition(&format!("io.k8s.api.{package}.{version}.{kind}"))
}

/// Every definition of the table.
pub fn definitions() -> &'static HashMap<String, Definition> {
    static TABLE: OnceLock<HashMap<String, Definition>> = OnceLock::new();
    TABLE.get_or_init(|| table::parse(include_str!("definitions.txt")).expect("the committed table is well formed"))
}

impl Definition {
    pub fn field(&self, json_name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.json_name == json_name)
    }

    /// `ServiceSpec`
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.ServiceSpec`, as Go's error messages name it.
    pub fn go_name(&self) -> &str {
        let package_end = self.name.rfind('.').unwrap_or(0);
        match self.name[..package_end].rfind('.') {
            Some(dot) => &self.name[dot + 1..],
            None => &self.name,
        }
    }
}

impl Field {
    /// The number of the sub-message that holds this field in protobuf, if it is an inlined struct's.
    pub fn outer_tag(&self) -> Option<u32> {
        self.inline.as_ref().map(|i| i.tag)
    }

    /// The Go type, as error messages print it: `int32`, `[]v1.ServicePort`, `map[string]string`.
    pub fn go_type(&self) -> String {
        self.kind.go_type(self.go_name.as_deref())
    }
}

impl Kind {
    /// The definition this refers to, through lists and maps.
    pub fn message(&self) -> Option<&'static Definition> {
        match self {
            Kind::Message(name) => definition(name),
            Kind::List(element) | Kind::Map(element) => element.message(),
            _ => None,
        }
    }

    /// `named` is the Go name of the innermost type, if it has one.
    pub fn go_type(&self, named: Option<&str>) -> String {
        match self {
            Kind::List(element) => format!("[]{}", element.go_type(named)),
            Kind::Map(_) if named == Some("v1.ResourceList") => "v1.ResourceList".to_owned(),
            Kind::Map(element) => format!("map[string]{}", element.go_type(named)),
            Kind::Message(name) => definition(name).map_or(name.as_str(), Definition::go_name).to_owned(),
            Kind::String if named.is_some() => named.unwrap_or_default().to_owned(),
            Kind::String => "string".to_owned(),
            Kind::Int32 => "int32".to_owned(),
            Kind::Int64 => "int64".to_owned(),
            Kind::Bool => "bool".to_owned(),
            Kind::Bytes => "[]uint8".to_owned(),
            Kind::Quantity => "resource.Quantity".to_owned(),
            Kind::IntOrString => "intstr.IntOrString".to_owned(),
            Kind::Time => "v1.Time".to_owned(),
            Kind::MicroTime => "v1.MicroTime".to_owned(),
            Kind::RawExtension => "runtime.RawExtension".to_owned(),
            Kind::FieldsV1 => "v1.FieldsV1".to_owned(),
            Kind::Items => "[]string".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition_name: &str, name: &str) -> &'static Field {
        definition(definition_name).and_then(|d| d.field(name)).unwrap_or_else(|| panic!("{definition_name}.{name}"))
    }

    #[test]
    fn service_ports_merge_by_port_and_apply_by_port_and_protocol() {
        let ports = field("io.k8s.api.core.v1.ServiceSpec", "ports");
        assert_eq!(ports.patch_merge_key.as_deref(), Some("port"));
        assert_eq!(ports.patch_strategy, ["merge"]);
        assert_eq!(ports.list_type, Some(ListType::Map));
        assert_eq!(ports.list_map_keys, ["port", "protocol"]);
        assert_eq!(ports.go_type(), "[]v1.ServicePort");
        let protocol = field("io.k8s.api.core.v1.ServicePort", "protocol");
        assert_eq!(protocol.default, Some(Value::from("TCP")));
        assert_eq!(protocol.enumeration, ["SCTP", "TCP", "UDP"]);
        assert!(field("io.k8s.api.core.v1.ServicePort", "port").required);
    }

    #[test]
    fn inlined_structs_are_flat_with_their_message_number() {
        let empty_dir = field("io.k8s.api.core.v1.Volume", "emptyDir");
        assert_eq!(empty_dir.inline, Some(Inline { tag: 2, name: "VolumeSource".to_owned() }));
        assert_eq!(empty_dir.tag, 2);
        assert_eq!(field("io.k8s.api.core.v1.Probe", "httpGet").outer_tag(), Some(1));
        assert_eq!(field("io.k8s.api.core.v1.EphemeralContainer", "image").outer_tag(), Some(1));
        assert_eq!(field("io.k8s.api.core.v1.EphemeralContainer", "targetContainerName").outer_tag(), None);
    }

    #[test]
    fn every_message_is_defined_and_tags_are_unique() {
        for definition in definitions().values() {
            let mut seen = std::collections::HashSet::new();
            for field in &definition.fields {
                assert!(!has_dangling_message(&field.kind), "{}.{}", definition.name, field.json_name);
                let fresh = field.tag == 0 || seen.insert((field.outer_tag(), field.tag));
                assert!(fresh, "{}.{}: number used twice", definition.name, field.json_name);
            }
        }
        assert!(definitions().len() > 400, "{}", definitions().len());
    }

    fn has_dangling_message(kind: &Kind) -> bool {
        match kind {
            Kind::Message(name) => definition(name).is_none(),
            Kind::List(element) | Kind::Map(element) => has_dangling_message(element),
            _ => false,
        }
    }

    #[test]
    fn go_names() {
        let spec = definition("io.k8s.api.core.v1.ServiceSpec").unwrap();
        assert_eq!((spec.go_name(), spec.short_name()), ("v1.ServiceSpec", "ServiceSpec"));
        assert_eq!(field("io.k8s.api.core.v1.ResourceRequirements", "limits").go_type(), "v1.ResourceList");
    }
}
