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
    /// The value as upstream prints it, where a JSON value cannot say it (the order of a Go struct's fields).
    pub printed: Option<String>,
}

impl Error {
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, path, value, detail)
    }

    /// `value` names something that isn't there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Error::new(ErrorKind::NotFound, path, value, "")
    }

    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Error::new(ErrorKind::Required, path, Value::Null, detail)
    }

    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Error::new(ErrorKind::Duplicate, path, value, "")
    }

    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Error::new(ErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// `supported` in the order upstream prints them (sorted there).
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| quoted(s)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Error::new(ErrorKind::NotSupported, path, value, detail)
    }

    /// The value itself is not repeated (it may be huge).
    pub fn too_long(path: &Path, max: usize) -> Self {
        Error::new(ErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} bytes"))
    }

    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Error::new(ErrorKind::TooMany, path, actual, format!("must have at most {max} {items}"))
    }

    /// Something that can only go wrong inside the server.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Error::new(ErrorKind::InternalError, path, Value::Null, detail)
    }

    /// This error with a reason.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// This error with its value printed as `text`.
    #[must_use]
    pub fn printed_as(mut self, text: impl Into<String>) -> Self {
        self.printed = Some(text.into());
        self
    }

    fn new(kind: ErrorKind, path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Error { kind, path: path.clone(), value: value.into(), detail: detail.into(), printed: None }
    }

    /// What follows the path: the `message` of a Status cause.
    pub fn body(&self) -> String {
        let head = match self.kind {
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::InternalError => {
                self.kind.text().to_owned()
            }
            _ => {
                let value = self.printed.clone().unwrap_or_else(|| printed(&self.value));
                format!("{}: {value}", self.kind.text())
            }
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
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A string in quotes, escaped as Go's `%q` does it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            // What has no shape of its own (Go's IsPrint), as far as Latin-1 goes.
            c if c.is_control() || matches!(c, '\u{a0}' | '\u{ad}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_read_as_upstream_writes_them() {
        let path = Path::new("spec").child("ports").index(0).key("a");
        let cases = [
            (Error::invalid(&path, 0, "must be positive"), "spec.ports[0][a]: Invalid value: 0: must be positive"),
            (Error::invalid(&path, "a\"b\u{1b}", ""), r#"spec.ports[0][a]: Invalid value: "a\"b\x1b""#),
            (Error::invalid(&path, json!(["a"]), "x"), r#"spec.ports[0][a]: Invalid value: ["a"]: x"#),
            (Error::required(&path, ""), "spec.ports[0][a]: Required value"),
            (Error::duplicate(&path, "a"), r#"spec.ports[0][a]: Duplicate value: "a""#),
            (Error::forbidden(&path, "no"), "spec.ports[0][a]: Forbidden: no"),
            (
                Error::not_supported(&path, "a", &["b", "c"]),
                r#"spec.ports[0][a]: Unsupported value: "a": supported values: "b", "c""#,
            ),
            (Error::too_long(&path, 3), "spec.ports[0][a]: Too long: may not be more than 3 bytes"),
            (Error::too_many(&path, 3, 1), "spec.ports[0][a]: Too many: 3: must have at most 1 item"),
            (Error::duplicate(&Path::default(), 1).printed_as("{}"), "<nil>: Duplicate value: {}"),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }
}
