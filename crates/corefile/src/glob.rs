//! The files that the pattern of an `import` means. Not responsible for which patterns are allowed.

use crate::Sources;

/// Whether there is anything to expand.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

/// The paths that match, sorted within each directory. What can't be listed has none.
pub(crate) fn expand(pattern: &str, sources: &dyn Sources) -> Vec<String> {
    let mut found = vec![if pattern.starts_with('/') { "/".to_owned() } else { String::new() }];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|before| step(before, part, sources)).collect();
    }
    found
}

/// The paths one part further. A part without wildcards is there or not: whoever reads it will see.
fn step(before: &str, part: &str, sources: &dyn Sources) -> Vec<String> {
    let join = |name: &str| match before {
        "" => name.to_owned(),
        _ if before.ends_with('/') => format!("{before}{name}"),
        _ => format!("{before}/{name}"),
    };
    if !is_pattern(part) {
        return vec![join(part)];
    }
    let mut names = sources.list(if before.is_empty() { "." } else { before }).unwrap_or_default();
    names.sort();
    names.iter().filter(|name| matches(part.as_bytes(), name.as_bytes())).map(|name| join(name)).collect()
}

/// One `*` and one `?` at most are allowed, so trying every length costs little.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        Some((b'?', rest)) => !name.is_empty() && matches(rest, &name[1..]),
        Some((b'\\', rest)) if !rest.is_empty() => name.first() == rest.first() && matches(&rest[1..], &name[1..]),
        Some((byte, rest)) => name.first() == Some(byte) && matches(rest, &name[1..]),
    }
}
