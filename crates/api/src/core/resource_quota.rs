//! ResourceQuota: how much a namespace may have in all. Stored, so that manifests that have one apply whole; not
//! enforced and not counted, and a warning says so.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age};
use crate::tree::{copy, entries, remove, text, texts};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "ResourceQuota")],
    definition: "io.k8s.api.core.v1.ResourceQuota",
    strategy: &ResourceQuota,
};

/// Amounts of these may be fractions; all others count things.
const AMOUNTS: &[&str] = &["cpu", "memory", "ephemeral-storage", "storage"];
/// What can be counted, beside amounts, their `requests.` and `limits.`, and `count/…`.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const OPPOSITES: &[(&str, &str)] = &[("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];

struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        remove(object, "status");
        crate::tree::child_map(object, "status");
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let mut errors = Vec::new();
        for (part, field) in [("spec", "hard"), ("status", "hard"), ("status", "used")] {
            for (name, value) in entries(&object[part][field]) {
                let path = Path::new(part).child(field).key(name);
                errors.extend(validate_name(name, &path));
                errors.extend(validate_amount(name, value, &path));
            }
        }
        let (scopes, path) = (texts(&object["spec"]["scopes"]), Path::new("spec").child("scopes"));
        let invalid = |what: &str| field::Error::invalid(&path, object["spec"]["scopes"].clone(), what);
        errors.extend(scopes.iter().filter(|scope| !SCOPES.contains(scope)).map(|_| invalid("unsupported scope")));
        let both = |(a, b): &&(&str, &str)| scopes.contains(a) && scopes.contains(b);
        errors.extend(OPPOSITES.iter().filter(both).map(|_| invalid("conflicting scopes")));
        errors
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
    }

    fn validate_update(&self, _context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = self.validate(new);
        let scopes = |object: &Value| -> std::collections::BTreeSet<String> {
            texts(&object["spec"]["scopes"]).into_iter().map(str::to_owned).collect()
        };
        if scopes(new) != scopes(old) {
            let path = Path::new("spec").child("scopes");
            errors.push(field::Error::invalid(&path, new["spec"]["scopes"].clone(), "field is immutable"));
        }
        errors
    }

    fn warnings(&self, _new: &Value, old: Option<&Value>) -> Vec<String> {
        let said = "ResourceQuota is stored but not enforced: nothing is counted and nothing refused";
        if old.is_none() { vec![said.to_owned()] } else { Vec::new() }
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::text("Request", "What is used of what may be asked for."),
                Column::text("Limit", "What is used of what may be a limit."),
                AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in entries(&object["status"]["hard"]) {
            let used = match text(&object["status"]["used"][name]) {
                "" => "0",
                used => used,
            };
            let column = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            column.push(format!("{name}: {used}/{}", text(hard)));
        }
        let name = object["metadata"]["name"].clone();
        vec![name, requests.join(", ").into(), limits.join(", ").into(), age(object, now).into()]
    }
}

/// What a name is an amount of: `requests.cpu` of `cpu`.
fn measured(name: &str) -> &str {
    name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name)
}

fn validate_name(name: &str, path: &Path) -> Vec<field::Error> {
    let mistakes = names::qualified_name(name);
    let huge = measured(name).starts_with("hugepages-");
    let known = COUNTED.contains(&name) || (AMOUNTS.contains(&measured(name)) && name != "limits.storage") || huge;
    if !mistakes.is_empty() || name.contains('/') || known {
        return mistakes.into_iter().map(|what| field::Error::invalid(path, name, what)).collect();
    }
    ["must be a standard resource type or fully qualified", "must be a standard resource for quota"]
        .map(|what| field::Error::invalid(path, name, what))
        .into()
}

fn validate_amount(name: &str, value: &Value, path: &Path) -> Option<field::Error> {
    let what = match text(value).parse::<Quantity>() {
        Err(_) => "must be a quantity",
        Ok(amount) if amount.is_negative() => "must be greater than or equal to 0",
        Ok(amount) if COUNTED.contains(&name) && !amount.is_whole() => "must be an integer",
        Ok(_) => return None,
    };
    Some(field::Error::invalid(path, value.clone(), what))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(errors: &[field::Error]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_amounts_and_scopes() {
        let good = json!({"spec": {"hard": {"pods": "4", "requests.cpu": "1500m", "limits.memory": "1Gi",
                                            "count/deployments.apps": "2", "requests.hugepages-2Mi": "4Mi"},
                                   "scopes": ["NotTerminating"]}});
        assert_eq!(ResourceQuota.validate(&good), []);
        let bad = json!({"spec": {"hard": {"pods": "500m", "cpu": "-1", "things": "1"},
                                  "scopes": ["BestEffort", "NotBestEffort", "Odd"]}});
        let mut errors = found(&ResourceQuota.validate(&bad));
        errors.sort();
        let expected = [
            "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
            "spec.hard[things]: Invalid value: \"things\": must be a standard resource for quota",
            "spec.hard[things]: Invalid value: \"things\": must be a standard resource type or fully qualified",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: conflicting scopes",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope",
        ];
        assert_eq!(errors, expected);
        let changed = found(&ResourceQuota.validate_update(
            &Context { now: jiff::Timestamp::UNIX_EPOCH, subresource: "" },
            &json!({"spec": {"scopes": ["Terminating"]}}),
            &good,
        ));
        assert_eq!(changed, ["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"]);
        assert!(ResourceQuota.warnings(&good, None)[0].contains("not enforced"));
    }

    #[test]
    fn rows_tell_what_somebody_counted() {
        let object = json!({"metadata": {"name": "q"}, "status": {"hard": {"cpu": "2", "limits.cpu": "4", "pods": "3"},
                                                                  "used": {"cpu": "1"}}});
        let cells = ResourceQuota.cells(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells, [json!("q"), json!("cpu: 1/2, pods: 0/3"), json!("limits.cpu: 0/4"), json!("<unknown>")]);
    }
}
