//! What Deployments and ReplicaSets have in common: a selector, a pod template, and counts in their status.

use serde_json::Value;

use crate::core::pod::{Whose, default_spec, spec_warnings, validate_spec};
use crate::field::{self, Path};
use crate::labels;
use crate::names;
use crate::resource::Column;
use crate::table::containers;
use crate::tree::{absent, child_mut, fill_absent, int, list, same, text, unset};

const NEGATIVE: &str = "must be greater than or equal to 0";

pub(super) const CONTAINERS: Column = Column::text("Containers", "The containers of the template.").wide();
pub(super) const IMAGES: Column = Column::text("Images", "Their images.").wide();
pub(super) const SELECTOR: Column = Column::text("Selector", "The labels of the pods that are its own.").wide();

/// The cells of [`CONTAINERS`], [`IMAGES`] and [`SELECTOR`].
pub(super) fn cells(spec: &Value) -> [Value; 3] {
    let (names, images) = containers(&spec["template"]["spec"]["containers"]);
    [names.into(), images.into(), labels::selector_text(&spec["selector"]).into()]
}

/// One replica, of a pod with everything defaulted.
pub(super) fn default(object: &mut Value) {
    let spec = child_mut(object, "spec");
    fill_absent(spec, "replicas", 1);
    if spec["template"].is_object() {
        default_spec(child_mut(child_mut(spec, "template"), "spec"));
    }
}

/// Mistakes in a count at `field`.
pub(super) fn non_negative(value: &Value, field: &str, path: &Path) -> Option<field::Error> {
    let number = int(&value[field]);
    (number < 0).then(|| field::Error::invalid(&path.child(field), number, NEGATIVE))
}

/// Mistakes in `spec.selector` and `spec.template`.
pub(super) fn validate(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (selector, selector_path) = (&spec["selector"], path.child("selector"));
    let mut errors = Vec::new();
    if absent(selector) {
        errors.push(field::Error::required(&selector_path, ""));
    } else {
        let mistakes = labels::validate_selector(selector, &selector_path);
        let broken = !mistakes.is_empty();
        errors.extend(mistakes);
        if broken {
            let printed = selector_printed(selector);
            errors
                .push(field::Error::invalid(&selector_path, Value::Null, "invalid label selector").printed_as(printed));
        }
        if unset(&selector["matchLabels"]) && unset(&selector["matchExpressions"]) {
            let what = "empty selector is invalid for deployment";
            errors.push(field::Error::invalid(&selector_path, selector.clone(), what));
        }
    }
    errors.extend(validate_template(spec, &path.child("template")));
    errors
}

/// The selector says which pods are the object's own: it stays.
pub(super) fn validate_selector_change(new: &Value, old: &Value) -> Vec<field::Error> {
    let (new, old) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    if same(new, old) {
        return Vec::new();
    }
    let path = Path::new("spec").child("selector");
    vec![field::Error::invalid(&path, Value::Null, "field is immutable").printed_as(selector_printed(new))]
}

/// A LabelSelector with its fields in the order in which Go has them.
fn selector_printed(selector: &Value) -> String {
    if absent(selector) {
        return "null".to_owned();
    }
    let mut parts = Vec::new();
    if !unset(&selector["matchLabels"]) {
        parts.push(format!("\"matchLabels\":{}", selector["matchLabels"]));
    }
    if !unset(&selector["matchExpressions"]) {
        parts.push(format!("\"matchExpressions\":{}", selector["matchExpressions"]));
    }
    format!("{{{}}}", parts.join(","))
}

/// Mistakes in the counts of a status. None may exceed `replicas`; fewer may be available than ready.
pub(super) fn validate_counts(status: &Value, counts: &[&str]) -> Vec<field::Error> {
    let path = Path::new("status");
    let all = ["observedGeneration", "replicas"].iter().chain(counts).chain(&["terminatingReplicas"]);
    let mut errors: Vec<field::Error> = all.filter_map(|field| non_negative(status, field, &path)).collect();
    let replicas = int(&status["replicas"]);
    for field in counts.iter().filter(|field| int(&status[**field]) > replicas) {
        let what = "cannot be greater than status.replicas";
        errors.push(field::Error::invalid(&path.child(field), int(&status[*field]), what));
    }
    let (available, ready) = (int(&status["availableReplicas"]), int(&status["readyReplicas"]));
    if available > ready {
        let what = "cannot be greater than readyReplicas";
        errors.push(field::Error::invalid(&path.child("availableReplicas"), available, what));
    }
    errors
}

/// What a name leads to that isn't a DNS label.
pub(super) fn name_warnings(object: &Value) -> Vec<String> {
    let mistakes = names::dns_label(text(&object["metadata"]["name"]), false);
    if mistakes.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
         recommended: [{}]",
        mistakes.join(" ")
    )]
}

/// What probably isn't meant in the template, when it is new or changed.
pub(super) fn template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let template = &new["spec"]["template"];
    if old.is_some_and(|old| *template == old["spec"]["template"]) {
        return Vec::new();
    }
    spec_warnings(&template["spec"], &Path::new("spec").child("template").child("spec"))
}

fn validate_template(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (template, selector) = (&spec["template"], &spec["selector"]);
    let (metadata, pod) = (&template["metadata"], &template["spec"]);
    let mut errors = Vec::new();
    // One that is broken selects everything, for upstream.
    let parses = labels::validate_selector(selector, &Path::default()).is_empty();
    if parses && !labels::selects(selector, &metadata["labels"]) {
        let what = "`selector` does not match template `labels`";
        errors.push(field::Error::invalid(&path.child("metadata").child("labels"), metadata["labels"].clone(), what));
    }
    errors.extend(labels::validate(&metadata["labels"], &path.child("labels")));
    errors.extend(crate::meta::validate_annotations(&metadata["annotations"], &path.child("annotations")));
    let path = path.child("spec");
    errors.extend(validate_spec(pod, Whose::Template, &path));
    if !list(&pod["ephemeralContainers"]).is_empty() {
        let what = "ephemeral containers not allowed in pod template";
        errors.push(field::Error::forbidden(&path.child("ephemeralContainers"), what));
    }
    if text(&pod["restartPolicy"]) != "Always" {
        let policy = pod["restartPolicy"].clone();
        errors.push(field::Error::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if !absent(&pod["activeDeadlineSeconds"]) {
        let what = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(field::Error::forbidden(&path.child("activeDeadlineSeconds"), what));
    }
    errors
}
