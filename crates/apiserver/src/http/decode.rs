//! Request bodies into objects: by Content-Type, checked against the kind that the path names.
//!
//! Not responsible for formats or schemas (`api::decode`), nor for what an object says.

use api::decode::{self, DecodeError, Decoded, Mode};
use api::field::{self, Path};
use api::go_json;
use api::schema::{self, Definition};
use api::status::Status;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::registry::Answer;

const ACCEPTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// So much of a body is repeated to who sent it.
const SUMMARY: usize = 30;

/// The kind that a body must be of.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub definition: &'static str,
}

impl Expected {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn schema(&self) -> Answer<&'static Definition> {
        let missing = || Box::new(Status::internal(format!("no schema for {}", self.definition)));
        schema::definition(self.definition).ok_or_else(missing)
    }
}

/// The media type of a body, without parameters; JSON where none is given.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// A body of any format the server reads; warnings beside the object.
pub fn object(headers: &HeaderMap, body: &[u8], expected: Expected, mode: Mode) -> Answer<Decoded> {
    let media = media_type(headers);
    if !ACCEPTED.contains(&media) {
        return Err(Box::new(Status::unsupported_media_type(ACCEPTED)));
    }
    let read = |schema: &'static Definition| match media {
        "application/yaml" => decode::yaml(body, schema, mode),
        "application/vnd.kubernetes.protobuf" => decode::protobuf(body, schema),
        _ => decode::json(body, schema, mode),
    };
    let decoded = read(expected.schema()?);
    let mut decoded = decoded.map_err(|error| refused(expected, body, &error))?;
    let named = identify(&mut decoded.object, expected);
    named.map_err(|mismatch| {
        let why = match &mismatch {
            Mismatch::GroupVersion(_) => {
                let (kind, why) = (expected.kind, mismatch.message(expected));
                format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body))
            }
            // What is wrong with it as what it says it is comes first.
            Mismatch::Kind(found) => match definition(found, expected).and_then(|schema| read(schema).err()) {
                Some(error) => {
                    let Expected { version, kind, .. } = expected;
                    format!("{found} in version {version:?} cannot be handled as a {kind}: {error}")
                }
                None => mismatch.message(expected),
            },
            Mismatch::Version(_) | Mismatch::Shape => mismatch.message(expected),
        };
        Box::new(Status::bad_request(why))
    })?;
    Ok(decoded)
}

/// A value that a patch made, as an object of the kind. `shown` is what upstream repeats of a patch that makes none.
pub fn value(object: Value, expected: Expected, mode: Mode, shown: &dyn Fn(&Value) -> Shown) -> Answer<Decoded> {
    let shown = shown(&object);
    let refused = |error: DecodeError| {
        let why = if shown.converted { error.of_conversion() } else { error.to_string() };
        invalid(shown.text.as_str(), &why)
    };
    let other = Some(&object).filter(|object| object["kind"] != expected.kind).cloned();
    let mut decoded = decode::value(object, expected.schema()?, mode).map_err(refused)?;
    let named = identify(&mut decoded.object, expected);
    named.map_err(|mismatch| {
        let as_found = match (&mismatch, other) {
            (Mismatch::Kind(found), Some(other)) => {
                definition(found, expected).and_then(|schema| decode::value(other, schema, Mode::Ignore).err())
            }
            _ => None,
        };
        let why = as_found.map_or_else(|| mismatch.message(expected), |error| error.to_string());
        invalid(shown.text.as_str(), &why)
    })?;
    Ok(decoded)
}

/// A patch that leads to no object.
fn invalid(shown: &str, why: &str) -> Box<Status> {
    Box::new(Status::invalid("", "", "", &[field::Error::invalid(&Path::new("patch"), shown, why)]))
}

/// What is said of a body of another kind.
fn mistaken(found: &str, expected: Expected) -> String {
    let Expected { group, version, kind, .. } = expected;
    // The package of upstream's internal types.
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    let why = match api::find_kind(group, version, found) {
        Some(_) => format!("converting ({version}.{found}) to ({package}.{kind}): unknown conversion"),
        None => format!("no kind {found:?} is registered for version {:?}", expected.api_version()),
    };
    format!("{found} in version {version:?} cannot be handled as a {kind}: {why}")
}

/// What is repeated of a patch that leads to no object.
pub struct Shown {
    pub text: String,
    /// Whether it was converted without JSON in between, which has other words for mistakes.
    pub converted: bool,
}

fn refused(expected: Expected, body: &[u8], error: &DecodeError) -> Box<Status> {
    if let (DecodeError::Json(_), Some(mistake)) = (error, go_json::mistake(body)) {
        let (kind, body) = (expected.kind, summary(body));
        return Box::new(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: \
             {mistake} ({body})"
        )));
    }
    if matches!(error, DecodeError::Json(_) | DecodeError::Yaml(_)) {
        // Of a text with a drawing the first line says it all.
        let (kind, error) = (expected.kind, error.to_string());
        let why = error.lines().next().unwrap_or_default();
        let why = format!("the object provided is unrecognized (must be of type {kind}): {why}");
        return Box::new(Status::bad_request(why));
    }
    Box::new(Status::cannot_handle(expected.kind, expected.version, error))
}

/// A body as upstream repeats it.
fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY)];
    let more = if shown.len() < body.len() { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!("{}{more}", shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// Why an object isn't one of the expected kind.
enum Mismatch {
    /// An apiVersion that can't be one.
    GroupVersion(String),
    Version(String),
    Kind(String),
    Shape,
}

impl Mismatch {
    fn message(&self, expected: Expected) -> String {
        let api_version = expected.api_version();
        match self {
            Mismatch::GroupVersion(found) => format!("unexpected GroupVersion string: {found}"),
            Mismatch::Version(found) => {
                format!("the API version in the data ({found}) does not match the expected API version ({api_version})")
            }
            Mismatch::Kind(found) => mistaken(found, expected),
            Mismatch::Shape => "the object provided is unrecognized (must be of type Object)".to_owned(),
        }
    }
}

/// What a kind of the expected one's group looks like.
fn definition(found: &str, expected: Expected) -> Option<&'static Definition> {
    schema::definition(api::find_kind(expected.group, expected.version, found)?.definition)
}

/// A body may leave its kind out; if it has one, it must be the path's.
fn identify(object: &mut Value, expected: Expected) -> Result<(), Mismatch> {
    let api_version = expected.api_version();
    let found = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let (found_version, found_kind) = (found("apiVersion"), found("kind"));
    if found_version.matches('/').count() > 1 {
        return Err(Mismatch::GroupVersion(found_version));
    }
    if !found_version.is_empty() && found_version != api_version {
        return Err(Mismatch::Version(found_version));
    }
    if !found_kind.is_empty() && found_kind != expected.kind {
        return Err(Mismatch::Kind(found_kind));
    }
    if !object.is_object() {
        return Err(Mismatch::Shape);
    }
    object["apiVersion"] = api_version.into();
    object["kind"] = expected.kind.into();
    Ok(())
}
