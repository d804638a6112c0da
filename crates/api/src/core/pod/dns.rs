//! What a Pod may say about how it resolves names.

use serde_json::Value;

use crate::address::validate_legacy_ip;
use crate::field::{self, Path};
use crate::names::pattern_text;
use crate::tree::{absent, list, text, texts};

const POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
const MAX_NAME: usize = 253;

/// Mistakes in `dnsPolicy`.
pub(super) fn validate_policy(spec: &Value, path: &Path) -> Vec<field::Error> {
    let path = path.child("dnsPolicy");
    match text(&spec["dnsPolicy"]) {
        "" => vec![field::Error::required(&path, "")],
        policy if POLICIES.contains(&policy) => Vec::new(),
        policy => vec![field::Error::not_supported(&path, policy, POLICIES)],
    }
}

/// Mistakes in `dnsConfig`.
pub(super) fn validate_config(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (config, path) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = texts(&config["nameservers"]);
    if text(&spec["dnsPolicy"]) == "None" {
        if absent(config) {
            return vec![field::Error::required(&path, "must provide `dnsConfig` when `dnsPolicy` is None")];
        }
        if servers.is_empty() {
            let what = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return vec![field::Error::required(&path.child("nameservers"), what)];
        }
    }
    let mut errors = Vec::new();
    let servers_path = path.child("nameservers");
    if servers.len() > MAX_NAMESERVERS {
        let what = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(field::Error::invalid(&servers_path, config["nameservers"].clone(), what));
    }
    let servers = servers.into_iter().enumerate();
    errors.extend(servers.flat_map(|(i, server)| validate_legacy_ip(&servers_path.index(i), server, &[])));
    errors.extend(validate_searches(config, &path.child("searches")));
    for (i, option) in list(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            errors.push(field::Error::required(&path.child("options").index(i), "must not be empty"));
        }
    }
    errors
}

fn validate_searches(config: &Value, path: &Path) -> Vec<field::Error> {
    let searches = texts(&config["searches"]);
    let mut errors = Vec::new();
    if searches.len() > MAX_SEARCHES {
        let what = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(field::Error::invalid(path, config["searches"].clone(), what));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let what =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.push(field::Error::invalid(path, config["searches"].clone(), what));
    }
    for (i, search) in searches.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let path = path.index(i);
        errors.extend(search_mistakes(search).into_iter().map(|what| field::Error::invalid(&path, search, what)));
    }
    errors
}

/// An RFC 1123 subdomain that may have underscores (RelaxedDNSSearchValidation, stable since 1.34).
fn search_mistakes(search: &str) -> Vec<String> {
    const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = |label: &str| {
        let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
        let inner = |b: &u8| edge(b) || matches!(b, b'-' | b'_');
        bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge) && bytes.iter().all(inner)
    };
    let mut mistakes = Vec::new();
    if search.len() > MAX_NAME {
        mistakes.push(format!("must be no more than {MAX_NAME} characters"));
    }
    if !search.split('.').all(good) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
                    must start and end with an alphanumeric character";
        mistakes.push(pattern_text(what, &format!("{LABEL}(\\.{LABEL})*"), &["example.com"]));
    }
    mistakes
}
