//! LimitRange: bounds and defaults for what the containers of a namespace ask for. Stored, so that manifests that have
//! one apply whole; not enforced, and a warning says so.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::resource::{ALL_VERBS, Column, Resource, Scope, Strategy};
use crate::table::NAME;
use crate::tree::{child_map, elements_mut, entries, list, text};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.core.v1.LimitRange",
    strategy: &LimitRange,
};

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

/// Pairs of which the first may not exceed the second: where a mistake is shown, and what the two are called.
const ORDERED: &[(&str, &str, &str, &str, &str)] = &[
    ("min", "max", "min", "min value", "max value"),
    ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
    ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
    ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
    ("min", "default", "default", "min value", "default value"),
    ("default", "max", "default", "default value", "max value"),
];

struct LimitRange;

impl Strategy for LimitRange {
    /// Of a container what isn't said follows from what is: the limit from the most, the request from the limit.
    fn default(&self, object: &mut Value) {
        if !object["spec"]["limits"].is_array() {
            return;
        }
        for item in elements_mut(crate::tree::child_mut(object, "spec"), "limits") {
            if text(&item["type"]) != "Container" {
                continue;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let known: Vec<(String, Value)> =
                    entries(&item[from]).map(|(name, amount)| (name.to_owned(), amount.clone())).collect();
                for (name, amount) in known {
                    child_map(item, to).entry(name).or_insert(amount);
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let path = Path::new("spec").child("limits");
        let mut seen: Vec<&str> = Vec::new();
        let mut errors = Vec::new();
        for (i, item) in list(&object["spec"]["limits"]).iter().enumerate() {
            let (path, kind) = (path.index(i), text(&item["type"]));
            errors.extend(validate_type(kind, &path.child("type")));
            if seen.contains(&kind) {
                errors.push(field::Error::duplicate(&path.child("type"), kind));
            }
            seen.push(kind);
            errors.extend(validate_item(item, kind, &path));
        }
        errors
    }

    fn warnings(&self, _new: &Value, old: Option<&Value>) -> Vec<String> {
        let said = "LimitRange is stored but not enforced: containers get no defaults from it and may exceed it";
        if old.is_none() { vec![said.to_owned()] } else { Vec::new() }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const CREATED: Column =
            Column { name: "Created At", kind: "date", format: "", description: "When it was created.", priority: 0 };
        const { &[NAME, CREATED] }
    }

    fn cells(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![object["metadata"]["name"].clone(), object["metadata"]["creationTimestamp"].clone()]
    }
}

fn validate_type(kind: &str, path: &Path) -> Vec<field::Error> {
    let mistakes = names::qualified_name(kind);
    if !mistakes.is_empty() || kind.contains('/') || TYPES.contains(&kind) {
        return mistakes.into_iter().map(|what| field::Error::invalid(path, kind, what)).collect();
    }
    vec![field::Error::invalid(path, kind, "must be a standard limit type or fully qualified")]
}

fn validate_item(item: &Value, kind: &str, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if kind == "Pod" {
        for field in ["default", "defaultRequest"] {
            if entries(&item[field]).next().is_some() {
                let what = "may not be specified when `type` is 'Pod'";
                errors.push(field::Error::forbidden(&path.child(field), what));
            }
        }
    }
    let stored = |field: &str| item[field].get("storage").is_some();
    if kind == "PersistentVolumeClaim" && !stored("min") && !stored("max") {
        let what = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(field::Error::required(&path.child("limits"), what));
    }
    for (low, high, shown, low_name, high_name) in ORDERED {
        for (name, value) in entries(&item[*low]) {
            let limit = &item[*high][name];
            if let (Some(less), Some(more)) = (amount(value), amount(limit))
                && less > more
            {
                let what = format!("{low_name} {} is greater than {high_name} {}", text(value), text(limit));
                let value = item[*shown][name].clone();
                errors.push(field::Error::invalid(&path.child(shown).key(name), value, what));
            }
        }
    }
    for (name, ratio) in entries(&item["maxLimitRequestRatio"]) {
        if amount(ratio).is_some_and(|ratio| ratio.milli() < 1000) {
            let what = format!("ratio {} is less than 1", text(ratio));
            errors.push(field::Error::invalid(&path.child("maxLimitRequestRatio").key(name), ratio.clone(), what));
        }
    }
    errors
}

fn amount(value: &Value) -> Option<Quantity> {
    text(value).parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_follows_from_what_is() {
        let mut object = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "4"}},
        ]}});
        LimitRange.default(&mut object);
        let limits = &object["spec"]["limits"];
        assert_eq!(limits[0]["default"], json!({"cpu": "2"}));
        assert_eq!(limits[0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert_eq!(limits[1], json!({"type": "Pod", "max": {"cpu": "4"}}));
        assert_eq!(LimitRange.validate(&object), []);
        assert!(LimitRange.warnings(&object, None)[0].contains("not enforced"));
    }

    #[test]
    fn mistakes() {
        let object = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "500m"}},
            {"type": "Container"},
            {"type": "Thing"},
            {"type": "Pod", "default": {"cpu": "1"}},
            {"type": "PersistentVolumeClaim"},
        ]}});
        let found: Vec<String> = LimitRange.validate(&object).iter().map(ToString::to_string).collect();
        let expected = [
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
            "spec.limits[1].type: Duplicate value: \"Container\"",
            "spec.limits[2].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified",
            "spec.limits[3].default: Forbidden: may not be specified when `type` is 'Pod'",
            "spec.limits[4].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ];
        assert_eq!(found, expected);
    }
}
