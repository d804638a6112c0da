//! Paths into an object and the errors that validation finds there. Not responsible for what is valid: the kinds are.
//!
//! Texts follow upstream's `field.Error` (apimachinery `util/validation/field`), since clients show them verbatim.

use std::fmt;

use serde_json::Value;

/// A path into an object as upstream prints it: `spec.ports[0].nodePort`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(field: &str) -> Self {
        Path(field.to_owned())
    }

    /// This path's child field.
    pub fn child(&self, field: &str) -> Self {
        if self.0.is_empty() { Path::new(field) } else { Path(format!("{}.{field}", self.0)) }
    }

    /// This path's list element.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// This path's map element.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("<nil>") } else { f.write_str(&self.0) }
    }
}

/// What kind of mistake was found. The name is the `reason` of a Status cause (`FieldValueRequired` …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    InternalError,
    TypeInvalid,
}

impl ErrorKind {
    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::InternalError => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::InternalError => "Internal error",
        }
    }
}

/// One mistake at one path.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorKind,
    pub path: Path,
    /// The offending value, for the kinds that print it.
    pub value: Value,
    pub detail: String,
}

impl Error {
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Invalid, path: path.clone(), value: value.into(), detail: detail.into() }
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Required, path: path.clone(), value: Value::Null, detail: detail.into() }
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Error { kind: ErrorKind::Duplicate, path: path.clone(), value: value.into(), detail: String::new() }
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Error { kind: ErrorKind::Forbidden, path: path.clone(), value: Value::Null, detail: detail.into() }
    }

    /// `supported` in the order upstream prints them (sorted there).
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Error { kind: ErrorKind::NotSupported, path: path.clone(), value: value.into(), detail }
    }

    /// The value itself is not repeated (it may be huge).
    pub fn too_long(path: &Path, max: usize) -> Self {
        Error {
            kind: ErrorKind::TooLong,
            path: path.clone(),
            value: Value::Null,
            detail: format!("may not be more than {max} bytes"),
        }
    }

    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Error {
            kind: ErrorKind::TooMany,
            path: path.clone(),
            value: actual.into(),
            detail: format!("must have at most {max} {items}"),
        }
    }

    /// What follows the path: the `message` of a Status cause.
    pub fn body(&self) -> String {
        let head = match self.kind {
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::InternalError => {
                self.kind.text().to_owned()
            }
            _ => format!("{}: {}", self.kind.text(), printed(&self.value)),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Go prints strings quoted (`%q`), numbers and booleans plain, null as `null`, and composites as JSON.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
