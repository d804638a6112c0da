//! Label selectors (meta/v1 LabelSelector). Not responsible for field selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};

/// Whether `selector` asks for nothing, which selects everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

pub fn matches(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let none = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&none);
    let wanted = selector.match_labels.as_ref().unwrap_or(&none);
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.as_deref().unwrap_or_default().iter().all(|wanted| requirement(wanted, labels))
}

/// An unknown operator matches nothing.
fn requirement(wanted: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&wanted.key);
    let listed = || value.is_some_and(|value| wanted.values.as_deref().unwrap_or_default().contains(value));
    match wanted.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_operators_and_labels_must_hold() {
        let metadata: ObjectMeta = serde_json::from_value(json!({ "labels": { "a": "1", "b": "2" } })).unwrap();
        let holds = |selector| matches(&serde_json::from_value(selector).unwrap(), &metadata);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        assert!(holds(json!({})) && holds(json!({ "matchLabels": { "a": "1" } })));
        assert!(!holds(json!({ "matchLabels": { "a": "2" } })));
        assert!(holds(expression("a", "In", &["1", "3"])) && !holds(expression("c", "In", &["1"])));
        assert!(holds(expression("c", "NotIn", &["1"])) && !holds(expression("a", "NotIn", &["1"])));
        assert!(holds(expression("a", "Exists", &[])) && !holds(expression("a", "DoesNotExist", &[])));
        assert!(!holds(expression("a", "Near", &["1"])));
    }
}
