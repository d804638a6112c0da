//! Answers: an object, a Status, text; warnings as headers; gzip for big ones. Not responsible for their content.

use std::io::Write;

use api::status::Status;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, Response, StatusCode};
use serde_json::Value;

use super::body::{Body, full};
use super::negotiate;

/// Smaller answers aren't worth compressing (upstream's threshold).
const GZIP_FROM: usize = 128 * 1024;

/// Longest warning, and longest sum of warnings, in characters (apiserver endpoints/filters/warning.go).
const WARNING_MAX: usize = 256;
const WARNINGS_MAX: usize = 4096;

/// A JSON answer.
pub fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, "application/json", value.to_string())
}

/// An answer of any type.
pub fn bytes(code: StatusCode, content_type: &'static str, content: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn text(code: StatusCode, content: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = bytes(code, "text/plain; charset=utf-8", content);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A failure or a success without an object.
pub fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_value());
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning: 299 - "text"` headers, bounded as upstream bounds them.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut total = 0;
    for warning in warnings {
        let cut: String = warning.chars().take(WARNING_MAX).collect();
        total += cut.chars().count();
        if total > WARNINGS_MAX {
            return;
        }
        let mut quoted = String::from("299 - \"");
        for c in cut.chars().filter(|c| !c.is_control()) {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}

/// A whole answer, compressed when it is big and the client reads that.
pub fn maybe_gzip(
    request: &HeaderMap,
    code: StatusCode,
    content_type: &'static str,
    content: Vec<u8>,
) -> Response<Body> {
    if content.len() < GZIP_FROM || !negotiate::accepts_gzip(request) {
        return bytes(code, content_type, content);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(content.len() / 8), Compression::fast());
    // Writing to memory can't fail; if it did, the plain answer is as good.
    let Ok(packed) = encoder.write_all(&content).and_then(|()| encoder.finish()) else {
        return bytes(code, content_type, content);
    };
    let mut response = bytes(code, content_type, packed);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}
