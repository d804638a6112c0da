//! What a valid name is: DNS labels and subdomains (RFC 1035, RFC 1123), port names, qualified names.
//!
//! Each function answers with the mistakes, in upstream's words (apimachinery `util/validation`); none means valid.

const DNS_SUBDOMAIN_MAX: usize = 253;

/// RFC 1123 subdomain, the rule for most names. `prefix` allows a trailing dash, as in `generateName`.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { name.strip_suffix('-').unwrap_or(name) } else { name };
    let mut mistakes = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        mistakes.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} bytes"));
    }
    if !name.split('.').all(is_label) {
        mistakes.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    mistakes
}

fn is_label(label: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge) && bytes.iter().all(|b| edge(b) || *b == b'-')
}
