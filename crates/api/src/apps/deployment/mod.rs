//! Deployment: replicas of a pod, renewed in steps. Doing that is a controller's work.

mod validation;

use serde_json::{Value, json};

use super::template;
use crate::field;
use crate::resource::{ALL_VERBS, Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age};
use crate::tree::{
    child_mut, copy, fill, fill_absent, first_generation, int, map_mut, next_generation, same_but_metadata_and_status,
    same_entries, text,
};

pub static RESOURCE: Resource = Resource {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::scale(), Subresource::status("apps", "v1", "Deployment")],
    definition: "io.k8s.api.apps.v1.Deployment",
    strategy: &Deployment,
};

struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        template::default(object);
        let spec = child_mut(object, "spec");
        fill_absent(spec, "revisionHistoryLimit", 10);
        fill_absent(spec, "progressDeadlineSeconds", 600);
        let strategy = child_mut(spec, "strategy");
        fill(strategy, "type", "RollingUpdate");
        if text(&strategy["type"]) == "RollingUpdate" {
            let rolling = child_mut(strategy, "rollingUpdate");
            fill_absent(rolling, "maxUnavailable", "25%");
            fill_absent(rolling, "maxSurge", "25%");
        }
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        map_mut(object).insert("status".to_owned(), json!({}));
        first_generation(object);
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        validation::validate(object)
    }

    /// Annotations count for the generation, since they are copied to the ReplicaSets.
    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        if context.subresource == "status" {
            copy(new, old, "spec");
            copy(child_mut(new, "metadata"), &old["metadata"], "labels");
            next_generation(new, old, false);
            return;
        }
        copy(new, old, "status");
        let changed = !same_but_metadata_and_status(new, old)
            || !same_entries(&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
        next_generation(new, old, changed);
    }

    fn validate_update(&self, context: &Context, new: &Value, old: &Value) -> Vec<field::Error> {
        if context.subresource == "status" {
            return validation::validate_status(new, old);
        }
        let mut errors = validation::validate(new);
        errors.extend(template::validate_selector_change(new, old));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = if old.is_none() { template::name_warnings(new) } else { Vec::new() };
        warnings.extend(template::template_warnings(new, old));
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                NAME,
                Column::text("Ready", "How many replicas are ready, of how many."),
                Column::text("Up-to-date", "How many replicas have the present template."),
                Column::text("Available", "How many replicas have been ready for long enough."),
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
            format!("{}/{}", int(&status["readyReplicas"]), int(&spec["replicas"])).into(),
            int(&status["updatedReplicas"]).into(),
            int(&status["availableReplicas"]).into(),
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

    pub(super) fn context(subresource: &'static str) -> Context {
        Context { now: jiff::Timestamp::UNIX_EPOCH, subresource }
    }

    pub(super) fn deployment(changes: Value) -> Value {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        }});
        object["spec"].as_object_mut().expect("a map").extend(changes.as_object().expect("a map").clone());
        Deployment.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = deployment(json!({}));
        let spec = &object["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(spec["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        let kept = deployment(json!({"replicas": 0, "strategy": {"type": "Recreate"}}));
        assert_eq!((&kept["spec"]["replicas"], &kept["spec"]["strategy"]), (&json!(0), &json!({"type": "Recreate"})));
    }

    #[test]
    fn the_generation_counts_spec_and_annotations() {
        let mut old = deployment(json!({}));
        Deployment.prepare_for_create(&context(""), &mut old);
        assert_eq!((&old["metadata"]["generation"], &old["status"]), (&json!(1), &json!({})));
        let edit = |path: &[&str], value: Value| {
            let mut new = old.clone();
            let mut at = &mut new;
            for key in path {
                at = child_mut(at, key);
            }
            *at = value;
            new
        };
        let cases = [
            ("", old.clone(), 1),
            ("", edit(&["spec", "replicas"], json!(3)), 2),
            ("", edit(&["metadata", "annotations"], json!({"a": "b"})), 2),
            ("", edit(&["metadata", "annotations"], json!({"a": ""})), 2),
            ("", edit(&["metadata", "labels"], json!({"a": "b"})), 1),
            ("", edit(&["status", "replicas"], json!(3)), 1),
            ("status", edit(&["spec", "replicas"], json!(3)), 1),
        ];
        for (subresource, mut new, expected) in cases {
            Deployment.prepare_for_update(&context(subresource), &mut new, &old);
            assert_eq!(new["metadata"]["generation"], expected, "{new}");
            assert_eq!(new["status"].get("replicas"), None);
        }
        let mut new = edit(&["status", "replicas"], json!(3));
        new["metadata"]["labels"] = json!({"x": "y"});
        Deployment.prepare_for_update(&context("status"), &mut new, &old);
        assert_eq!((&new["status"]["replicas"], new["metadata"].get("labels")), (&json!(3), None));
    }

    #[test]
    fn rows() {
        let mut object = deployment(json!({"replicas": 3}));
        object["status"] = json!({"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1});
        let cells = Deployment.cells(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(Value::Array(cells), json!(["web", "1/3", 2, 1, "<unknown>", "c", "web:1", "app=web"]));
    }
}
