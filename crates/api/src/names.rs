//! What a valid name is: DNS labels and subdomains (RFC 1035, RFC 1123), port names, qualified names.
//!
//! Each function answers with the mistakes, in upstream's words (apimachinery `util/validation` and
//! `api/validate/content`); none means valid. Not responsible for where a name stands: callers add the path.

const DNS_SUBDOMAIN_MAX: usize = 253;
const DNS_LABEL_MAX: usize = 63;
const PORT_NAME_MAX: usize = 15;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                          start and end with an alphanumeric character";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                              '.', and must start and end with an alphanumeric character";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
                               an alphabetic character, and end with an alphanumeric character";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
                                or '.', and must start and end with an alphanumeric character";

/// RFC 1123 subdomain, the rule for most names. `prefix` allows a trailing dash, as in `generateName`.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    subdomain(&masked(name, prefix), "characters")
}

/// RFC 1123 label: Namespaces, Services (from 1.36 on), hostnames, port names of Services.
pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    let name = &masked(name, prefix);
    let mut mistakes = too_long(name, DNS_LABEL_MAX);
    if !is_label(name) {
        if is_subdomain(name) {
            mistakes.push("must not contain dots".to_owned());
        } else {
            mistakes.push(pattern_text(LABEL_TEXT, LABEL, &["my-name", "123-abc"]));
        }
    }
    mistakes
}

/// RFC 1035 label: as `dns_label`, but with a letter first.
pub fn dns_1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = &masked(name, prefix);
    let mut mistakes = too_long(name, DNS_LABEL_MAX);
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        mistakes.push(pattern_text(LABEL_1035_TEXT, LABEL_1035, &["my-name", "abc-123"]));
    }
    mistakes
}

/// IANA service name (RFC 6335), lower case: named container and target ports.
pub fn port_name(name: &str) -> Vec<String> {
    let mut mistakes = too_long(name, PORT_NAME_MAX);
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || !name.bytes().all(allowed) {
        mistakes.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        mistakes.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        mistakes.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        mistakes.push("must not begin or end with a hyphen".to_owned());
    }
    mistakes
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

/// A number within both bounds.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) {
        Vec::new()
    } else {
        vec![format!("must be between {low} and {high}, inclusive")]
    }
}

/// What is wrong with the name of a sysctl, dots or slashes between its parts.
pub fn matches_sysctl(name: &str) -> Option<String> {
    const PATTERN: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    const MAX: usize = 253;
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| edge(*b))
            && bytes.last().is_some_and(|b| edge(*b))
            && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
    };
    let bad = name.len() > MAX || !name.split(['.', '/']).all(good);
    bad.then(|| format!("must have at most {MAX} characters and match regex {PATTERN}"))
}

/// Label keys, finalizers, `appProtocol`: a name with an optional DNS prefix and `/`.
pub fn qualified_name(name: &str) -> Vec<String> {
    let pattern = pattern_text(KEY_TEXT, KEY, &["MyName", "my.name", "123-abc"]);
    let mut mistakes = Vec::new();
    let parts: Vec<&str> = name.split('/').collect();
    let local = match parts[..] {
        [local] => local,
        [prefix, local] => {
            if prefix.is_empty() {
                mistakes.push("prefix part must be non-empty".to_owned());
            } else {
                mistakes.extend(subdomain(prefix, "bytes").into_iter().map(|text| format!("prefix part {text}")));
            }
            local
        }
        _ => {
            return vec![format!(
                "a valid label key {pattern} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if local.is_empty() {
        mistakes.push("name part must be non-empty".to_owned());
    } else if local.len() > DNS_LABEL_MAX {
        mistakes.push(format!("name part must be no more than {DNS_LABEL_MAX} bytes"));
    }
    if !is_key(local) {
        mistakes.push(format!("name part {pattern}"));
    }
    mistakes
}

/// The value of a label: empty, or like the name part of its key.
pub fn label_value(value: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    if value.len() > DNS_LABEL_MAX {
        mistakes.push(format!("must be no more than {DNS_LABEL_MAX} bytes"));
    }
    if !value.is_empty() && !is_key(value) {
        mistakes.push(pattern_text(LABEL_VALUE_TEXT, &format!("({KEY})?"), &["MyValue", "my_value", "12345"]));
    }
    mistakes
}

/// A key of a ConfigMap or Secret, which becomes a file name.
pub fn config_map_key(key: &str) -> Vec<String> {
    let mut mistakes = too_long(key, DNS_SUBDOMAIN_MAX);
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        mistakes.push(pattern_text(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match key {
        "." => mistakes.push("must not be '.'".to_owned()),
        ".." => mistakes.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => mistakes.push("must not start with '..'".to_owned()),
        _ => {}
    }
    mistakes
}

/// An environment variable's name, by the relaxed rule that is stable since 1.34.
pub fn env_var_name(name: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    if name.is_empty() {
        mistakes.push("environment variable name must be non-empty".to_owned());
    }
    if name.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=') {
        mistakes.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    mistakes
}

/// A name that is safe as one segment of a URL path.
pub fn path_segment(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|bad| name.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The name of an HTTP header.
pub fn http_header_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let text = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern_text(text, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A percentage: digits and `%`.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let text = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern_text(text, "[0-9]+%", &["1%", "93%"])]
}

/// What upstream writes when a pattern doesn't match.
pub fn pattern_text(text: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// Upstream has this rule twice; the newer copy, used for the prefixes of label keys, counts in bytes.
fn subdomain(name: &str, unit: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        mistakes.push(format!("must be no more than {DNS_SUBDOMAIN_MAX} {unit}"));
    }
    if !is_subdomain(name) {
        let pattern = format!("{LABEL}(\\.{LABEL})*");
        mistakes.push(pattern_text(SUBDOMAIN_TEXT, &pattern, &["example.com"]));
    }
    mistakes
}

/// A trailing dash is fine in a `generateName`, since more follows: upstream masks it with a letter.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let cut = rest.char_indices().last().map_or(0, |(at, _)| at);
            format!("{}a", &rest[..cut])
        }
        _ => name.to_owned(),
    }
}

fn too_long(name: &str, max: usize) -> Vec<String> {
    if name.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge) && bytes.iter().all(|b| edge(b) || *b == b'-')
}

fn is_key(key: &str) -> bool {
    let edge = u8::is_ascii_alphanumeric;
    let bytes = key.as_bytes();
    let inner = |b: &u8| edge(b) || matches!(b, b'-' | b'_' | b'.');
    bytes.first().is_some_and(edge) && bytes.last().is_some_and(edge) && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
        '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
        '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
        start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
        '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
        alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
        validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    const KEY: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
        alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
        '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

    fn check(rule: fn(&str) -> Vec<String>, cases: &[(&str, &[&str])]) {
        for (name, expected) in cases {
            assert_eq!(rule(name), *expected, "{name:?}");
        }
    }

    #[test]
    fn dns_names() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}.{}", "a".repeat(200), "b".repeat(60));
        check(
            |name| dns_subdomain(name, false),
            &[
                ("a", &[]),
                ("a.b-c.1", &[]),
                (&long_label, &[]),
                ("", &[SUBDOMAIN]),
                ("A", &[SUBDOMAIN]),
                ("a_b", &[SUBDOMAIN]),
                ("a..b", &[SUBDOMAIN]),
                ("-a", &[SUBDOMAIN]),
                ("a-", &[SUBDOMAIN]),
                (&long_name, &["must be no more than 253 characters"]),
            ],
        );
        check(
            |name| dns_label(name, false),
            &[
                ("1abc", &[]),
                ("a.b", &["must not contain dots"]),
                ("", &[LABEL]),
                ("aé", &[LABEL]),
                (&long_label, &["must be no more than 63 characters"]),
            ],
        );
        check(|name| dns_1035_label(name, false), &[("abc-1", &[]), ("1abc", &[LABEL_1035]), ("a.b", &[LABEL_1035])]);
        check(
            |name| dns_subdomain(name, true),
            &[("a-", &[]), ("a--", &[]), ("-", &[SUBDOMAIN]), ("A-b-", &[SUBDOMAIN])],
        );
    }

    #[test]
    fn port_names() {
        const CHARACTERS: &str = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
        const LETTER: &str = "must contain at least one letter (a-z)";
        check(
            port_name,
            &[
                ("http", &[]),
                ("9p-x", &[]),
                ("", &[CHARACTERS, LETTER]),
                ("80", &[LETTER]),
                ("HTTP", &[CHARACTERS, LETTER]),
                ("a--b", &["must not contain consecutive hyphens"]),
                ("-a", &["must not begin or end with a hyphen"]),
                ("abcdefghijklmnop", &["must be no more than 15 characters"]),
            ],
        );
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(port_number(65535).is_empty());
    }

    #[test]
    fn qualified_names_and_label_values() {
        let name_part = format!("name part {KEY}");
        let prefix_part = format!("prefix part {SUBDOMAIN}");
        let long = "a".repeat(64);
        check(
            qualified_name,
            &[
                ("app", &[]),
                ("example.com/My_Name", &[]),
                ("", &["name part must be non-empty", &name_part]),
                ("/a", &["prefix part must be non-empty"]),
                ("A/b", &[&prefix_part]),
                (&long, &["name part must be no more than 63 bytes"]),
                ("a b", &[&name_part]),
            ],
        );
        assert_eq!(
            qualified_name("a/b/c"),
            [format!(
                "a valid label key {KEY} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )]
        );
        check(label_value, &[("", &[]), ("A.b_c-1", &[]), (&long, &["must be no more than 63 bytes"])]);
        assert!(label_value("-a")[0].starts_with("a valid label must be an empty string or consist of alphanumeric"));
        assert!(label_value("-a")[0].ends_with("'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"));
    }

    #[test]
    fn keys_variables_and_segments() {
        const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
            'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        check(
            config_map_key,
            &[
                ("a.b_c-D", &[]),
                ("a/b", &[KEY]),
                ("", &[KEY]),
                (".", &["must not be '.'"]),
                ("..", &["must not be '..'"]),
                ("..a", &["must not start with '..'"]),
            ],
        );
        check(
            env_var_name,
            &[
                ("1 any:thing", &[]),
                ("", &["environment variable name must be non-empty"]),
                (
                    "a=b",
                    &[
                        "a valid environment variable name must consist only of printable ASCII characters other than '='",
                    ],
                ),
            ],
        );
        check(
            path_segment,
            &[("a", &[]), (".", &["may not be '.'"]), ("a/%", &["may not contain '/'", "may not contain '%'"])],
        );
        assert_eq!(percent("x%").len(), 1);
        assert!(percent("25%").is_empty());
        assert_eq!(http_header_name("a b").len(), 1);
    }
}
