//! Namespace: its finalizers, phase and the label with its own name. Emptying one is a controller's work.

use serde_json::Value;

use crate::field::{self, Path};
use crate::names;
use crate::resource::{Column, Context, Resource, Scope, Strategy, Subresource};
use crate::table::{AGE, NAME, age};
use crate::tree::{absent, child_map, child_mut, copy, put, text, texts};

pub static RESOURCE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource { name: "finalize", kind: ("", "v1", "Namespace"), verbs: &["update"] },
        Subresource::status("", "v1", "Namespace"),
    ],
    definition: "io.k8s.api.core.v1.Namespace",
    strategy: &Namespace,
};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        label_with_name(object);
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Value) {
        label_with_name(object);
        let mut finalizers: Vec<String> = texts(&object["spec"]["finalizers"]).into_iter().map(str::to_owned).collect();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        child_map(object, "spec").insert("finalizers".to_owned(), finalizers.into());
        put(object, "status", serde_json::json!({"phase": "Active"}));
    }

    fn validate(&self, object: &Value) -> Vec<field::Error> {
        let path = Path::new("spec").child("finalizers");
        texts(&object["spec"]["finalizers"]).into_iter().flat_map(|name| validate_finalizer(name, &path)).collect()
    }

    fn prepare_for_update(&self, context: &Context, new: &mut Value, old: &Value) {
        match context.subresource {
            "status" => copy(new, old, "spec"),
            "finalize" => copy(new, old, "status"),
            _ => {
                copy(child_mut(new, "spec"), &old["spec"], "finalizers");
                copy(new, old, "status");
            }
        }
        label_with_name(new);
    }

    fn validate_update(&self, context: &Context, new: &Value, _old: &Value) -> Vec<field::Error> {
        match context.subresource {
            "status" => validate_phase(new),
            "finalize" => {
                let path = Path::new("spec").child("finalizers");
                let names = texts(&new["spec"]["finalizers"]);
                names.into_iter().enumerate().flat_map(|(i, name)| validate_finalizer(name, &path.index(i))).collect()
            }
            _ => self.validate(new),
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns_label(name, prefix)
    }

    fn field_labels(&self) -> &'static [&'static str] {
        &["status.phase"]
    }

    fn field(&self, object: &Value, _label: &str) -> String {
        text(&object["status"]["phase"]).to_owned()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, Column::text("Status", "Active, or Terminating while it is being emptied."), AGE] }
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let phase = text(&object["status"]["phase"]);
        vec![object["metadata"]["name"].clone(), phase.into(), age(object, now).into()]
    }
}

fn label_with_name(object: &mut Value) {
    let name = text(&object["metadata"]["name"]).to_owned();
    if !name.is_empty() {
        child_map(child_mut(object, "metadata"), "labels").insert(NAME_LABEL.to_owned(), name.into());
    }
}

/// Finalizers are qualified names; those without a prefix must be one of the known ones.
fn validate_finalizer(name: &str, path: &Path) -> Vec<field::Error> {
    let mut errors: Vec<field::Error> =
        names::qualified_name(name).into_iter().map(|what| field::Error::invalid(path, name, what)).collect();
    let known = [FINALIZER, "orphan", "foregroundDeletion"];
    if !name.contains('/') && !known.contains(&name) {
        let what = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(field::Error::invalid(path, name, what));
    }
    errors
}

fn validate_phase(object: &Value) -> Vec<field::Error> {
    let phase = text(&object["status"]["phase"]);
    let path = Path::new("status").child("Phase");
    match (absent(&object["metadata"]["deletionTimestamp"]), phase) {
        (true, "Active") | (false, "Terminating") => Vec::new(),
        (true, _) => {
            vec![field::Error::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")]
        }
        (false, _) => {
            vec![field::Error::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(subresource: &'static str) -> Context {
        Context { now: jiff::Timestamp::UNIX_EPOCH, subresource }
    }

    #[test]
    fn a_new_one_is_active_labelled_and_finalized() {
        let mut object = json!({"metadata": {"name": "a"}, "status": {"phase": "Odd"}});
        Namespace.prepare_for_create(&context(""), &mut object);
        let expected = json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn each_subresource_changes_its_part() {
        let old =
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let asked = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Terminating"}});
        let cases = [
            ("", json!({"finalizers": ["kubernetes"]}), "Active"),
            ("status", json!({"finalizers": ["kubernetes"]}), "Terminating"),
            ("finalize", json!({}), "Active"),
        ];
        for (subresource, spec, phase) in cases {
            let mut new = asked.clone();
            Namespace.prepare_for_update(&context(subresource), &mut new, &old);
            assert_eq!((&new["spec"], text(&new["status"]["phase"])), (&spec, phase), "{subresource}");
        }
    }

    #[test]
    fn mistakes() {
        let errors = Namespace.validate(&json!({"spec": {"finalizers": ["kubernetes", "mine", "example.com/x"]}}));
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Active"}});
        assert_eq!(
            validate_phase(&going)[0].to_string(),
            "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"
        );
    }
}
