//! Whether a text is a label selector of Kubernetes as CoreDNS takes one. Not responsible for selecting.

/// Requirements with commas between: `a=b`, `a!=b`, `a in (b, c)`, `a notin (b)`, `a`, `!a`.
pub(crate) fn is_selector(text: &str) -> bool {
    let (mut depth, mut begin) = (0_u32, 0);
    let mut parts = Vec::new();
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' if depth == 0 => return false,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    depth == 0 && parts.iter().all(|part| is_requirement(part.trim()))
}

fn is_requirement(text: &str) -> bool {
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key.trim());
    }
    if let Some((key, value)) = text.split_once("!=").or_else(|| text.split_once("==")).or_else(|| text.split_once('='))
    {
        return is_key(key.trim()) && is_value(value.trim());
    }
    let Some(open) = text.find('(') else { return is_key(text) };
    let Some(values) = text[open + 1..].strip_suffix(')') else { return false };
    let mut words = text[..open].split_whitespace();
    let (Some(key), Some("in" | "notin"), None) = (words.next(), words.next(), words.next()) else { return false };
    is_key(key) && values.split(',').all(|value| is_value(value.trim()))
}

/// A qualified name: up to 63 characters, after a domain and a slash perhaps.
fn is_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let domain = |text: &str| {
        text.len() <= 253
            && text.split('.').all(|label| {
                let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                !label.is_empty() && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
            })
    };
    prefix.is_none_or(domain) && !name.is_empty() && is_value(name)
}

fn is_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && edge(text.chars().next())
        && edge(text.chars().last())
}
