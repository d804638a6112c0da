//! Lease: who holds a role, and until when. Holding is the holders' agreement, not the API's.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy};
use crate::table::{AGE, NAME, age};
use crate::tree::{absent, int, text};

pub static RESOURCE: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    definition: "io.k8s.api.coordination.v1.Lease",
    strategy: &Lease,
};

struct Lease;

impl Strategy for Lease {
    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let (spec, path) = (&object["spec"], Path::new("spec"));
        let mut errors = Vec::new();
        let duration = &spec["leaseDurationSeconds"];
        if !absent(duration) && int(duration) <= 0 {
            let path = path.child("leaseDurationSeconds");
            errors.push(field::Error::invalid(&path, duration.clone(), "must be greater than 0"));
        }
        let transitions = &spec["leaseTransitions"];
        if int(transitions) < 0 {
            let path = path.child("leaseTransitions");
            errors.push(field::Error::invalid(&path, transitions.clone(), "must be greater than or equal to 0"));
        }
        let strategy = text(&spec["strategy"]);
        if !strategy.is_empty() {
            let path = path.child("strategy");
            if strategy.contains('/') {
                let mistakes = names::qualified_name(strategy);
                errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, strategy, what)));
            } else if strategy != "OldestEmulationVersion" {
                errors.push(field::Error::not_supported(&path, strategy, &["OldestEmulationVersion"]));
            }
        } else if !text(&spec["preferredHolder"]).is_empty() {
            let what = "may only be specified if `strategy` is defined";
            errors.push(field::Error::forbidden(&path.child("preferredHolder"), what));
        }
        errors
    }

    fn validate_update(&self, _context: &Context, new: &Value, _old: &Value) -> Vec<field::Error> {
        self.validate(new)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("Holder", "Who holds the lease."), AGE] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let holder = text(&object["spec"]["holderIdentity"]);
        vec![object["metadata"]["name"].clone(), holder.into(), age(object, now).into()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mistakes() {
        let cases: [(Value, &[&str]); 5] = [
            (json!({"leaseDurationSeconds": 15, "leaseTransitions": 0, "holderIdentity": "a"}), &[]),
            (
                json!({"leaseDurationSeconds": 0}),
                &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
            ),
            (
                json!({"leaseTransitions": -1}),
                &["spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"strategy": "Newest"}),
                &["spec.strategy: Unsupported value: \"Newest\": supported values: \"OldestEmulationVersion\""],
            ),
            (
                json!({"preferredHolder": "a"}),
                &["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"],
            ),
        ];
        for (spec, expected) in cases {
            let found: Vec<String> = Lease.validate(&json!({"spec": spec})).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
    }
}
