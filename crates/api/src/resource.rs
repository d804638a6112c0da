//! What the generic API machinery asks of a kind. Not responsible for any kind: each has a folder of its own.
//!
//! Objects travel as `serde_json::Value`; typed structs are used inside a kind only where its logic needs them.

use serde_json::Value;

use crate::field;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A subresource such as `pods/log` or `deployments/scale`.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what it accepts and returns, when that isn't the parent's own.
    pub kind: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

/// A column of the server-side Table (meta.k8s.io/v1 TableColumnDefinition).
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `boolean` …
    pub kind: &'static str,
    /// `name` for the identifying column, otherwise empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// What a request was made with, as far as kinds may care. Time is passed in: this crate has no clock.
#[derive(Clone, Debug)]
pub struct Context {
    /// RFC 3339, whole seconds, `Z`.
    pub now: jiff::Timestamp,
    /// The subresource addressed, empty for the object itself.
    pub subresource: &'static str,
}

/// Who makes a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'c> {
    pub user: &'c str,
    pub groups: &'c [String],
    /// What it was known by: `X509SHA256=` and the hash of its certificate.
    pub credential: Option<&'c str>,
}

/// One kind as the API serves it.
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// The definition in the schema table, in OpenAPI's spelling: `io.k8s.api.core.v1.Service`.
    pub definition: &'static str,
    pub strategy: &'static dyn Strategy,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `services` or `deployments.apps`, as error messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// The rules of one kind: pure, synchronous, over plain values. Every method has the answer most kinds give.
///
/// The generic registry (crate `apiserver`) calls, on create: `default`, `prepare_for_create`, `validate`, `warnings`;
/// on update: `default`, `prepare_for_update`, `validate_update`, `warnings`. It owns metadata (name, uid, timestamps,
/// resourceVersion, finalizers, deletion) and validates it by `meta::validate`; strategies see to everything else.
pub trait Strategy: Send + Sync {
    /// The kind whose objects these are, where this is only another spelling of them. Everything but `to_stored` and
    /// `to_served` sees an object as it is stored.
    fn stored(&self) -> Option<&'static Resource> {
        None
    }

    /// From this kind's spelling to the stored one.
    fn to_stored(&self, _object: &mut Value) {}

    /// And back.
    fn to_served(&self, _object: &mut Value) {}

    /// Answers an object that is a question and is never stored; false for all others.
    fn answer(&self, _object: &mut Value, _caller: &Caller<'_>) -> bool {
        false
    }

    /// Fills in what the API defaults. Idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Clears what a creator may not set (status, usually) and sets `metadata.generation` where the kind keeps one.
    fn prepare_for_create(&self, _context: &Context, _object: &mut Value) {}

    /// Every mistake in a new object, beyond metadata.
    fn validate(&self, _object: &Value) -> Vec<field::Error> {
        Vec::new()
    }

    /// Why a new object isn't let in, before it is judged (upstream's admission plugins): 403.
    fn forbidden(&self, _object: &Value) -> Option<String> {
        None
    }

    /// Restores what this (sub)resource may not change: the status on a plain update, everything else on `status`;
    /// bumps `metadata.generation` where the kind keeps one. `context.subresource` says which.
    fn prepare_for_update(&self, _context: &Context, _new: &mut Value, _old: &Value) {}

    /// Every mistake in an update, beyond metadata, `validate`'s included.
    fn validate_update(&self, _context: &Context, new: &Value, _old: &Value) -> Vec<field::Error> {
        self.validate(new)
    }

    /// Texts for `Warning: 299` headers.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The warning that every answer about a deprecated kind carries.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }

    /// Mistakes in `metadata.name` (the rule differs by kind); empty when it is good.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns_subdomain(name, prefix)
    }

    /// Field labels that selectors may use, `metadata.name` and `metadata.namespace` aside.
    fn field_labels(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value of one of `field_labels` (empty when absent).
    fn field(&self, _object: &Value, _label: &str) -> String {
        String::new()
    }

    /// PUT to a name that doesn't exist creates it (core/v1 Service, Endpoints, Lease, Event …).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// PUT without a resourceVersion overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds between a delete and the object's end; 0 deletes at once. `requested` is DeleteOptions'.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> i64 {
        0
    }

    /// Whether objects end gracefully, so that their deletion shows in them even when it takes no time.
    fn graceful(&self) -> bool {
        false
    }

    /// The columns of the Table.
    fn columns(&self) -> &'static [Column] {
        crate::table::NAME_AND_AGE
    }

    /// One row's cells, as many as `columns`.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        crate::table::name_and_age(object, now)
    }
}

/// The verbs of an ordinary kind.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Subresource {
    /// `status` of a kind: the object itself, of which only the status changes.
    pub const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
        Subresource { name: "status", kind: (group, version, kind), verbs: &["get", "patch", "update"] }
    }

    /// `scale`: how many replicas, as every scalable kind tells it.
    pub const fn scale() -> Subresource {
        Subresource { name: "scale", kind: ("autoscaling", "v1", "Scale"), verbs: &["get", "patch", "update"] }
    }
}

impl Column {
    /// A column of text that is always shown.
    pub const fn text(name: &'static str, description: &'static str) -> Column {
        Column { name, kind: "string", format: "", description, priority: 0 }
    }

    /// A column of whole numbers that is always shown.
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column { name, kind: "integer", format: "", description, priority: 0 }
    }

    /// The same column, shown only with `-o wide`.
    pub const fn wide(self) -> Column {
        Column { priority: 1, ..self }
    }
}
