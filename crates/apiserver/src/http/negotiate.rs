//! Which form of an answer a client accepts: plain, Table, metadata only, aggregated discovery; gzip or not.
//!
//! Not responsible for making any of them.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

/// One media range of an Accept header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MediaRange<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// Quality in thousandths.
    quality: u16,
}

impl MediaRange<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "*/*" | "application/*")
    }

    /// A client that prefers protobuf and doesn't name JSON still understands JSON (§0.1 of the protocol's practice).
    fn is_served_as_json(&self) -> bool {
        self.is_json() || matches!(self.media, "application/vnd.kubernetes.protobuf" | "application/yaml" | "text/*")
    }
}

/// The form of a resource answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// A Table of meta.k8s.io, `v1` or `v1beta1`.
    Table(&'static str),
    /// PartialObjectMetadata or its List.
    Metadata,
}

/// The form of a discovery answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    Aggregated,
    Legacy,
}

/// No form the client accepts is served: 406.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAcceptable;

/// The best form for a resource request.
pub fn form(headers: &HeaderMap) -> Result<Form, NotAcceptable> {
    best(headers, |range| match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
        ("", _, _) if range.is_served_as_json() => Some(Form::Object),
        ("Table", "meta.k8s.io", "v1") if range.is_json() => Some(Form::Table("v1")),
        ("Table", "meta.k8s.io", "v1beta1") if range.is_json() => Some(Form::Table("v1beta1")),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") if range.is_served_as_json() => {
            Some(Form::Metadata)
        }
        _ => None,
    })
    .map(|form| form.unwrap_or(Form::Object))
}

/// The best form for `/api` and `/apis`. Strict: a client that asks for an older aggregated version only can't read
/// the current one.
pub fn discovery(headers: &HeaderMap) -> Result<Discovery, NotAcceptable> {
    best(headers, |range| match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
        ("", _, _) if range.is_served_as_json() => Some(Discovery::Legacy),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") if range.is_json() => Some(Discovery::Aggregated),
        _ => None,
    })
    .map(|form| form.unwrap_or(Discovery::Legacy))
}

/// Whether the client reads gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim() == "gzip" && !matches!(parameters.trim(), "q=0" | "q=0.0")
    })
}

fn best<T>(headers: &HeaderMap, choose: impl Fn(&MediaRange<'_>) -> Option<T>) -> Result<Option<T>, NotAcceptable> {
    let values: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut ranges: Vec<MediaRange<'_>> =
        values.iter().flat_map(|value| value.split(',')).filter(|r| !r.trim().is_empty()).map(parse).collect();
    if ranges.is_empty() {
        return Ok(None);
    }
    // Stable: among equals the client's order counts.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    ranges.iter().filter(|range| range.quality > 0).find_map(choose).map(Some).ok_or(NotAcceptable)
}

fn parse(text: &str) -> MediaRange<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let mut range = MediaRange { media, parameters: Vec::new(), quality: 1000 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key.trim() {
            "q" => range.quality = value.trim().parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16),
            key => range.parameters.push((key, value.trim().trim_matches('"'))),
        }
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, value.parse().unwrap())])
    }

    #[test]
    fn the_clients_order_decides_among_what_is_served() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        assert_eq!(form(&accept(kubectl)), Ok(Form::Table("v1")));
        assert_eq!(form(&accept("application/json;as=Table;v=v2;g=meta.k8s.io,application/json")), Ok(Form::Object));
        assert_eq!(form(&accept("application/vnd.kubernetes.protobuf,application/json")), Ok(Form::Object));
        assert_eq!(form(&accept("text/html;q=0.9,*/*;q=0.8")), Ok(Form::Object));
        assert_eq!(form(&accept("image/png")), Err(NotAcceptable));
        assert_eq!(form(&HeaderMap::new()), Ok(Form::Object));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(&accept(metadata)), Ok(Form::Metadata));
    }

    #[test]
    fn only_clients_that_ask_for_v2_get_aggregated_discovery() {
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(&accept(beta)), Ok(Discovery::Legacy));
        let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(&accept(both)), Ok(Discovery::Aggregated));
    }
}
