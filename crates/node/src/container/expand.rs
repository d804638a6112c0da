//! `$(NAME)` in commands, arguments and values of environment variables.

/// Replaces each `$(NAME)` that `lookup` knows; an unknown one stays as written, `$$` is one `$`.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_escapes_kept_and_the_unknown_left() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B_C" => Some("two"),
            "EMPTY" => Some(""),
            _ => None,
        };
        let table = [
            ("plain", "plain"),
            ("$(A)-$(B_C)", "1-two"),
            ("$(A)$(A)", "11"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("x$(EMPTY)y", "xy"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("end$", "end$"),
            ("", ""),
            ("é$(A)ü", "é1ü"),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
