//! Writes a configuration in the form kube-proxy writes it: keys in alphabetical order, every field named, quotes only
//! where YAML 1.1 would read something else. Not responsible for YAML at large: what is written are maps, lists of text,
//! numbers and text.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::file::KubeProxyConfiguration;

/// How deep a level is indented.
const INDENT: usize = 2;

/// The whole file.
pub fn to_yaml(config: &KubeProxyConfiguration) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    if let Value::Object(map) = serde_json::to_value(config)? {
        write_map(&mut text, &map, 0, false);
    }
    Ok(text)
}

/// `first_in_line`: the first key follows the dash of a list.
fn write_map(text: &mut String, map: &Map<String, Value>, depth: usize, first_in_line: bool) {
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort();
    for (index, key) in keys.into_iter().enumerate() {
        if index > 0 || !first_in_line {
            text.extend(std::iter::repeat_n(' ', depth));
        }
        text.push_str(&scalar(key));
        text.push(':');
        match map.get(key) {
            Some(Value::Object(inner)) if !inner.is_empty() => {
                text.push('\n');
                write_map(text, inner, depth + INDENT, false);
            }
            Some(Value::Array(items)) if !items.is_empty() => {
                text.push('\n');
                write_list(text, items, depth);
            }
            Some(value) => {
                text.push(' ');
                write_leaf(text, value);
            }
            None => text.push('\n'),
        }
    }
}

/// A list in a map is not indented.
fn write_list(text: &mut String, items: &[Value], depth: usize) {
    for item in items {
        text.extend(std::iter::repeat_n(' ', depth));
        text.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(text, map, depth + INDENT, true),
            leaf => write_leaf(text, leaf),
        }
    }
}

fn write_leaf(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => text.push_str(&scalar(string)),
        // 5.0 is written 5.
        Value::Number(number) => match number.as_f64() {
            // serde_json has made a double of a float32: its own digits are those that were written.
            Some(double) if number.is_f64() => {
                let single = double as f32;
                let _ = write!(text, "{single}");
            }
            _ => text.push_str(&number.to_string()),
        },
        Value::Array(_) => text.push_str("[]"),
        Value::Object(_) => text.push_str("{}"),
        other => text.push_str(&other.to_string()),
    }
    text.push('\n');
}

/// Text, quoted where it has to be.
fn scalar(text: &str) -> String {
    if text.chars().any(|c| c.is_control() || c == '\u{feff}') {
        return escaped(text);
    }
    if text.is_empty() || means_something_else(text) {
        return format!("\"{text}\"");
    }
    if may_be_plain(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

fn escaped(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            '\n' => write!(quoted, "\\n"),
            '\t' => write!(quoted, "\\t"),
            '\r' => write!(quoted, "\\r"),
            c if c.is_control() || c == '\u{feff}' => write!(quoted, "\\u{:04X}", u32::from(c)),
            c => write!(quoted, "{c}"),
        };
    }
    quoted.push('"');
    quoted
}

/// Whether YAML 1.1 reads a number, a boolean, null, a merge or a time.
fn means_something_else(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "~" | "<<") {
        return true;
    }
    if matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan") {
        return true;
    }
    let digits = lower.trim_start_matches(['+', '-']).replace('_', "");
    let Some(first) = digits.bytes().next() else { return false };
    if !first.is_ascii_digit() && first != b'.' {
        return false;
    }
    let radix =
        |prefix: &str, radix| digits.strip_prefix(prefix).is_some_and(|d| u64::from_str_radix(d, radix).is_ok());
    digits.parse::<f64>().is_ok()
        || radix("0x", 16)
        || radix("0b", 2)
        || radix("0o", 8)
        || base_60(&digits)
        || date(&digits)
}

/// `1:30:00` is a number in YAML 1.1.
fn base_60(text: &str) -> bool {
    text.contains(':') && text.split(':').all(|part| !part.is_empty() && part.parse::<f64>().is_ok())
}

fn date(text: &str) -> bool {
    let day = text.split(['t', ' ']).next().unwrap_or_default();
    let parts: Vec<_> = day.split('-').collect();
    parts.len() == 3 && parts[0].len() == 4 && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether nothing in it is YAML's own, in the block style.
fn may_be_plain(text: &str) -> bool {
    if text.starts_with(' ') || text.ends_with(' ') || text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    let mut before = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let ends_here = rest.peek().is_none_or(|next| *next == ' ');
        let special = match (before, c) {
            (None, '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`') => {
                true
            }
            (None, '-' | '?') | (_, ':') => ends_here,
            (Some(' '), '#') => true,
            _ => false,
        };
        if special {
            return false;
        }
        before = Some(c);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_only_where_it_must_be() {
        let plain =
            ["0.0.0.0:10256", "15m0s", "ClusterCIDR", "/a/b", "fd00::1", "10.0.0.0/8", "a#b", "-x", "1.5s", "a'b"];
        for text in plain {
            assert_eq!(scalar(text), text);
        }
        for text in ["[::]:10256", "::", " aB ", "*", "- x", "a: b", "a #b", "@x", "---"] {
            assert_eq!(scalar(text), format!("'{text}'"));
        }
        for text in ["", "0", "1.35", "true", "No", "~", "null", "0x1F", "1:30", "2026-01-02", "1e3", ".inf"] {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
        assert_eq!(scalar("a\n\"b"), r#""a\n\"b""#);
        assert_eq!(scalar("'x"), "'''x'");
    }
}
