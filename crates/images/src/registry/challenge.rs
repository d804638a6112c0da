//! What a registry wants to see: the WWW-Authenticate header of a 401 (RFC 9110, 11.6.1).
//!
//! Not responsible for answering it.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The one to answer; Bearer wins, as it does with containerd.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<Self> = values.flat_map(parse).collect();
        all.iter().find(|challenge| **challenge != Self::Basic).or(all.first()).cloned()
    }
}

fn parse(value: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let (parameters, next) = parameters(after);
        let get = |name: &str| {
            parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if let (true, Some(realm)) = (scheme.eq_ignore_ascii_case("bearer"), get("realm")) {
            found.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
        rest = next;
    }
    found
}

/// `name=value` pairs until something that isn't one: the next scheme.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',', '\t']);
    while let Some((name, after)) = rest.split_once('=') {
        if name.contains([' ', ',']) || name.is_empty() {
            break;
        }
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        rest = next.trim_start_matches([' ', ',', '\t']);
    }
    (found, rest)
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
    }

    #[test]
    fn challenges_are_read_in_every_form() {
        let hub =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            of(&[hub]),
            bearer("https://auth.example/token", Some("registry.example"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(of(&[r#"Basic realm="a, b""#]), Some(Challenge::Basic));
        assert_eq!(of(&[r#"Basic realm="x", bearer realm=r, service="q\"s""#]), bearer("r", Some("q\"s"), None));
        assert_eq!(of(&["Basic", r#"Bearer realm="r""#]), bearer("r", None, None));
        for none in ["", "Bearer", "Negotiate", r#"Bearer service="x""#, "=\"", "Digest a=\"b"] {
            assert_eq!(of(&[none]), None, "{none}");
        }
    }

    #[test]
    fn no_header_makes_it_panic_or_hang() {
        for text in ["\"", "a=\"\\", ",,,=", "Bearer =,=", "Bearer realm=\"é\\\"", "B =\" =\" ="] {
            parse(text);
        }
    }
}
