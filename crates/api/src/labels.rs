//! Labels and LabelSelector objects inside specs: validation, matching, printing. The selectors of list requests are
//! another syntax and not this module's business.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::selector::LabelSelector;
use crate::tree::{entries, list, text, texts, unset};

/// Mistakes in a map of labels.
pub fn validate(labels: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (key, value) in entries(labels) {
        errors.extend(names::qualified_name(key).into_iter().map(|what| field::Error::invalid(path, key, what)));
        errors.extend(
            names::label_value(text(value)).into_iter().map(|what| field::Error::invalid(path, text(value), what)),
        );
    }
    errors
}

/// Mistakes in a LabelSelector.
pub fn validate_selector(selector: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = validate(&selector["matchLabels"], &path.child("matchLabels"));
    for (i, requirement) in list(&selector["matchExpressions"]).iter().enumerate() {
        errors.extend(validate_requirement(requirement, &path.child("matchExpressions").index(i)));
    }
    errors
}

/// Whether a LabelSelector selects an object with these labels. An empty one selects everything.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    LabelSelector::from_object(Some(selector)).is_ok_and(|selector| selector.matches(labels))
}

/// A LabelSelector in the syntax of list requests: `app=web,tier in (a,b),!old`, ordered by key.
pub fn selector_text(selector: &Value) -> String {
    let equal = entries(&selector["matchLabels"]).map(|(key, value)| (key, format!("{key}={}", text(value))));
    let expressions = list(&selector["matchExpressions"]).iter().map(|requirement| {
        let key = text(&requirement["key"]);
        let mut values = texts(&requirement["values"]);
        values.sort_unstable();
        let written = match text(&requirement["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        (key, written)
    });
    let mut parts: Vec<(&str, String)> = equal.chain(expressions).collect();
    parts.sort_by(|a, b| a.0.cmp(b.0));
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// A map of labels as Tables show it: `a=b,c=d`, or `<none>`.
pub fn map_text(labels: &Value) -> String {
    if unset(labels) {
        return "<none>".to_owned();
    }
    let mut parts: Vec<String> = entries(labels).map(|(key, value)| format!("{key}={}", text(value))).collect();
    parts.sort_unstable();
    parts.join(",")
}

fn validate_requirement(requirement: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let values = texts(&requirement["values"]);
    match text(&requirement["operator"]) {
        "In" | "NotIn" if values.is_empty() => errors.push(field::Error::required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(field::Error::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Exists" | "DoesNotExist" => {}
        other => errors.push(field::Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = text(&requirement["key"]);
    let key_path = path.child("key");
    errors.extend(names::qualified_name(key).into_iter().map(|what| field::Error::invalid(&key_path, key, what)));
    for (i, value) in values.iter().enumerate() {
        let path = path.child("values").index(i);
        errors.extend(names::label_value(value).into_iter().map(|what| field::Error::invalid(&path, *value, what)));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let labels = json!({"app": "web", "tier": "a"});
        let expression = |operator: &str, key: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (expression("In", "tier", &["a", "b"]), true),
            (expression("In", "tier", &["c"]), false),
            (expression("NotIn", "tier", &["c"]), true),
            (expression("NotIn", "absent", &["c"]), true),
            (expression("Exists", "app", &[]), true),
            (expression("DoesNotExist", "app", &[]), false),
            (expression("Unknown", "app", &[]), false),
        ];
        for (selector, expected) in cases {
            assert_eq!(selects(&selector, &labels), expected, "{selector}");
        }
    }

    #[test]
    fn selectors_are_written_by_key() {
        let selector = json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["y", "x"]},
                {"key": "a", "operator": "NotIn", "values": ["z"]},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "DoesNotExist"},
            ],
        });
        assert_eq!(selector_text(&selector), "a notin (z),b=1,c in (x,y),d,!e");
        assert_eq!(map_text(&json!({"b": "2", "a": "1"})), "a=1,b=2");
        assert_eq!(map_text(&json!({})), "<none>");
    }

    #[test]
    fn mistakes_in_selectors() {
        let path = Path::new("s");
        let cases = [
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
                "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}),
                "s.matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or \
                 'DoesNotExist'",
            ),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}),
                "s.matchExpressions[0].operator: Invalid value: \"Is\": not a valid selector operator",
            ),
            (json!({"matchLabels": {"": "x"}}), "s.matchLabels: Invalid value: \"\": name part must be non-empty"),
        ];
        for (selector, expected) in cases {
            assert_eq!(validate_selector(&selector, &path)[0].to_string(), expected);
        }
    }
}
