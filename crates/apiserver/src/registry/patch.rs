//! Patching objects: the patch is applied to whatever is stored, again if that was changed meanwhile.
//!
//! Not responsible for patch formats (`api::patch`), nor for what may change (`update`).

use api::decode::Mode;
use api::go_json;
use api::patch;
use api::schema::Definition;
use api::status::Status;
use serde_json::Value;

use super::Answer;
use crate::http::decode::{self, Expected, Shown};

/// The format of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

const ACCEPTED: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// A patch as it came: parsed, not yet applied.
pub struct Patch {
    kind: PatchKind,
    bytes: Vec<u8>,
    /// The parsed body of merge patches.
    value: Value,
}

impl Patch {
    /// Reads a body by its media type.
    pub fn parse(media: &str, body: &[u8]) -> Answer<Self> {
        let kind = match media {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                let mut status = Status::unsupported_media_type(ACCEPTED);
                status.message = format!(
                    "this server does not support server-side apply yet: accepted media types include: {}",
                    ACCEPTED.join(", ")
                );
                return Err(Box::new(status));
            }
            _ => return Err(Box::new(Status::unsupported_media_type(ACCEPTED))),
        };
        let value = match kind {
            PatchKind::Json => Value::Null,
            PatchKind::Merge | PatchKind::Strategic => serde_json::from_slice(body).map_err(|error| {
                let why = go_json::mistake(body).unwrap_or_else(|| error.to_string());
                let strategic = kind == PatchKind::Strategic;
                Box::new(Status::bad_request(if strategic { why } else { format!("error decoding patch: {why}") }))
            })?,
        };
        Ok(Patch { kind, bytes: body.to_vec(), value })
    }

    /// The patched object with the warnings about it.
    pub fn apply(&self, original: &Value, expected: Expected, mode: Mode) -> Answer<(Value, Vec<String>)> {
        let schema: &'static Definition = expected.schema()?;
        let patched = match self.kind {
            PatchKind::Json => patch::json(original, &self.bytes),
            PatchKind::Merge => patch::merge(original, &self.value),
            PatchKind::Strategic => patch::strategic(original, &self.value, schema),
        };
        let mut patched = patched.map_err(|error| Box::new(error.status()))?;
        if self.kind == PatchKind::Strategic && patched.is_object() {
            // Upstream applies these to the type, whatever they say it is.
            for field in ["apiVersion", "kind"] {
                patched[field] = original[field].clone();
            }
        }
        let shown = |patched: &Value| match self.kind {
            PatchKind::Strategic => Shown { text: patch::go_text(&self.value), converted: true },
            PatchKind::Json | PatchKind::Merge => Shown { text: patched.to_string(), converted: false },
        };
        let decoded = decode::value(patched, expected, mode, &shown)?;
        Ok((decoded.object, decoded.problems))
    }
}
