//! `/openapi/v3`: an index whose URLs carry content hashes, and a document per group and version; and `/openapi/v2`, one
//! document of all, in protobuf for those who want it so.
//!
//! With a hash in its URL a document may be kept for a year, so clients fetch each one once and ask for the small
//! index afterwards. Not responsible for what the documents say (`api::openapi`).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, Response, StatusCode};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::{Value, json};

use crate::discovery::hash;
use crate::http::body::{Body, full};
use crate::http::query::Query;
use crate::http::respond;
use crate::kinds::Kinds;

struct Document {
    content: Bytes,
    hash: String,
}

/// The documents, made when the first client asks.
pub struct OpenApi {
    versions: Vec<(&'static str, &'static str)>,
    documents: OnceLock<BTreeMap<String, Document>>,
    v2: OnceLock<(Document, Document)>,
}

/// The protobuf form's media types: the one that clients ask for, and what the answer calls it.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

impl OpenApi {
    pub fn new(kinds: &Kinds) -> Self {
        OpenApi { versions: kinds.group_versions(), documents: OnceLock::new(), v2: OnceLock::new() }
    }

    /// `/openapi/v2`.
    pub fn v2(&self, request: &HeaderMap) -> Response<Body> {
        let (json, protobuf) = self.v2.get_or_init(|| {
            let document = api::openapi::v2(api::resources());
            let made = |content: Vec<u8>| Document { hash: hash(&content), content: Bytes::from(content) };
            (made(document.to_string().into_bytes()), made(api::openapi::gnostic::document(&document)))
        });
        let accepts = |media: &str| {
            let values = request.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            values.into_iter().any(|value| value.contains(media))
        };
        let (document, media) = match accepts(PROTOBUF) || accepts(PROTOBUF_ANSWER) {
            true => (protobuf, PROTOBUF_ANSWER),
            false => (json, "application/json"),
        };
        let etag = HeaderValue::try_from(format!("\"{}\"", document.hash)).ok();
        if etag.is_some() && request.get(IF_NONE_MATCH) == etag.as_ref() {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        let mut response = respond::maybe_gzip(request, StatusCode::OK, media, document.content.to_vec());
        let headers = response.headers_mut();
        headers.extend(etag.map(|etag| (ETAG, etag)));
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        response
    }

    /// `/openapi/v3`.
    pub fn index(&self) -> Response<Body> {
        let paths: serde_json::Map<String, Value> = self
            .documents()
            .iter()
            .map(|(path, document)| (path.clone(), json!({"serverRelativeURL": url(path, document)})))
            .collect();
        respond::json(StatusCode::OK, &json!({"paths": paths}))
    }

    /// One document; `None` when there is none of that path.
    pub fn document(&self, path: &str, query: &Query, request: &HeaderMap) -> Option<Response<Body>> {
        let document = self.documents().get(path)?;
        let asked = query.text("hash");
        if asked.is_some_and(|asked| asked != document.hash) {
            // An old index led here: the document has changed since.
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            response.headers_mut().insert(LOCATION, HeaderValue::try_from(url(path, document)).ok()?);
            return Some(response);
        }
        let etag = HeaderValue::try_from(format!("\"{}\"", document.hash)).ok()?;
        if request.get(IF_NONE_MATCH).is_some_and(|known| *known == etag) {
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().insert(ETAG, etag);
            return Some(response);
        }
        let mut response = respond::maybe_gzip(request, StatusCode::OK, "application/json", document.content.to_vec());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ETAG, etag);
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if asked.is_some() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            headers.insert(EXPIRES, in_a_year()?);
        } else {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        Some(response)
    }

    fn documents(&self) -> &BTreeMap<String, Document> {
        self.documents.get_or_init(|| {
            let document = |(group, version): &(&str, &str)| {
                let path = match *group {
                    "" => format!("api/{version}"),
                    group => format!("apis/{group}/{version}"),
                };
                let content = Bytes::from(api::openapi::v3(group, version, api::resources()).to_string());
                let hash = hash(&content);
                (path, Document { content, hash })
            };
            self.versions.iter().map(document).collect()
        })
    }
}

fn url(path: &str, document: &Document) -> String {
    format!("/openapi/v3/{path}?hash={}", document.hash)
}

fn in_a_year() -> Option<HeaderValue> {
    let then = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(365.days()).ok()?;
    HeaderValue::try_from(then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}
