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
const SUMMARY: usize = 1024;

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
    let schema = expected.schema()?;
    let decoded = match media_type(headers) {
        "application/json" => decode::json(body, schema, mode),
        "application/yaml" => decode::yaml(body, schema, mode),
        "application/vnd.kubernetes.protobuf" => decode::protobuf(body, schema),
        _ => return Err(Box::new(Status::unsupported_media_type(ACCEPTED))),
    };
    let mut decoded = decoded.map_err(|error| refused(expected, body, &error))?;
    identify(&mut decoded.object, expected)?;
    Ok(decoded)
}

/// A value that a patch made, as an object of the kind. `shown` is what upstream repeats of a patch that makes none.
pub fn value(object: Value, expected: Expected, mode: Mode, shown: &dyn Fn(&Value) -> Shown) -> Answer<Decoded> {
    let shown = shown(&object);
    let refused = |error: DecodeError| {
        let why = if shown.converted { error.of_conversion() } else { error.to_string() };
        invalid(shown.text.as_str(), &why)
    };
    let mut decoded = decode::value(object, expected.schema()?, mode).map_err(refused)?;
    let named = identify(&mut decoded.object, expected);
    named.map_err(|status| invalid(shown.text.as_str(), &status.message))?;
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

/// A body may leave its kind out; if it has one, it must be the path's.
fn identify(object: &mut Value, expected: Expected) -> Answer<()> {
    let api_version = expected.api_version();
    let found = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let (found_version, found_kind) = (found("apiVersion"), found("kind"));
    if !found_version.is_empty() && found_version != api_version {
        let why = format!(
            "the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        );
        return Err(Box::new(Status::bad_request(why)));
    }
    if !found_kind.is_empty() && found_kind != expected.kind {
        return Err(Box::new(Status::bad_request(mistaken(&found_kind, expected))));
    }
    if !object.is_object() {
        return Err(Box::new(Status::bad_request("the object provided is unrecognized (must be of type Object)")));
    }
    object["apiVersion"] = api_version.into();
    object["kind"] = expected.kind.into();
    Ok(())
}
