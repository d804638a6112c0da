//! ReplicaSet: so many replicas of a pod. Keeping the number is a controller's work.

use serde_json::{Value, json};

use super::template::{self, non_negative};
use crate::field::{self, Path};
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age};
use crate::tree::{copy, first_generation, int, map_mut, next_generation, same_but_metadata_and_status};

pub static RESOURCE: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::scale(), Subresource::status("apps", "v1", "ReplicaSet")],
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    strategy: &ReplicaSet,
};

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        template::default(object);
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        map_mut(object).insert("status".to_owned(), json!({"replicas": 0}));
        first_generation(object);
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let (spec, path) = (&object["spec"], Path::new("spec"));
        let counts = ["replicas", "minReadySeconds"].into_iter();
        let mut errors: Vec<field::Error> = counts.filter_map(|field| non_negative(spec, field, &path)).collect();
        errors.extend(template::validate(spec, &path));
        errors
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        copy(new, old, if context.subresource == "status" { "spec" } else { "status" });
        let changed = !same_but_metadata_and_status(new, old);
        next_generation(new, old, changed);
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        if context.subresource == "status" {
            let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            return template::validate_counts(&new["status"], &counts);
        }
        let mut errors = self.validate(new);
        errors.extend(template::validate_selector_change(new, old));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_none() { template::name_warnings(new) } else { Vec::new() }
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn field(&self, object: &Value, _label: &str) -> String {
        int(&object["status"]["replicas"]).to_string()
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::integer("Desired", "How many replicas there should be."),
                Column::integer("Current", "How many there are."),
                Column::integer("Ready", "How many of them are ready."),
                AGE,
                template::CONTAINERS,
                template::IMAGES,
                template::SELECTOR,
            ]
        }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let [containers, images, selector] = template::cells(spec);
        vec![
            object["metadata"]["name"].clone(),
            int(&spec["replicas"]).into(),
            int(&status["replicas"]).into(),
            int(&status["readyReplicas"]).into(),
            age(object, now).into(),
            containers,
            images,
            selector,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(subresource: &'static str) -> Context {
        Context { now: jiff::Timestamp::UNIX_EPOCH, subresource }
    }

    fn replica_set(changes: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        }});
        object["spec"].as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
        ReplicaSet.default(&mut object);
        object
    }

    #[test]
    fn mistakes() {
        let cases: [(Value, &[&str]); 5] = [
            (json!({}), &[]),
            (json!({"replicas": -1}), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
            (
                json!({"minReadySeconds": -1}),
                &["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"selector": null}),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"selector": {"matchLabels": {"app": "db"}}}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
        ];
        for (changes, expected) in cases {
            let found: Vec<String> =
                ReplicaSet.validate(&replica_set(changes)).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected);
        }
        let status = json!({"status": {"replicas": 1, "fullyLabeledReplicas": 2}});
        let errors = ReplicaSet.validate_update(&context("status"), &status, &json!({}));
        assert_eq!(
            errors[0].to_string(),
            "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas"
        );
    }

    #[test]
    fn doors_generation_and_rows() {
        let mut old = replica_set(json!({"replicas": 2}));
        ReplicaSet.prepare_for_create(&context(""), &mut old);
        assert_eq!((&old["metadata"]["generation"], &old["status"]), (&json!(1), &json!({"replicas": 0})));
        let mut asked = old.clone();
        asked["spec"]["replicas"] = json!(3);
        asked["status"] = json!({"replicas": 2, "readyReplicas": 1});
        let mut new = asked.clone();
        ReplicaSet.prepare_for_update(&context(""), &mut new, &old);
        assert_eq!((&new["metadata"]["generation"], &new["status"]), (&json!(2), &old["status"]));
        let mut new = asked;
        ReplicaSet.prepare_for_update(&context("status"), &mut new, &old);
        assert_eq!((&new["metadata"]["generation"], &new["spec"]), (&json!(1), &old["spec"]));
        assert_eq!(ReplicaSet.field(&new, "status.replicas"), "2");
        let cells = ReplicaSet.cells(&new, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(Value::Array(cells), json!(["web", 2, 2, 1, "<unknown>", "c", "web:1", "app=web"]));
    }
}
