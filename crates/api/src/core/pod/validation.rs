//! What a Pod, or the template of one, may look like, with upstream's paths and words for the everyday fields.

use serde_json::Value;

use super::containers::{self, choice};
use super::security::one_of;
use super::{dns, placement, security, volumes};
use crate::address::validate_legacy_ip;
use crate::field::{self, Path};
use crate::labels;
use crate::names;
use crate::tree::{absent, flag, int, list, text, texts};

/// Whose spec is looked at: some rules are for Pods themselves only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Pod,
    Template,
}

/// Every mistake in a new Pod.
pub(super) fn validate_create(pod: &Value) -> Vec<field::Error> {
    let (spec, path) = (&pod["spec"], Path::new("spec"));
    let mut errors = validate_spec(spec, Whose::Pod, &path);
    if !list(&spec["ephemeralContainers"]).is_empty() {
        errors.push(field::Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(&spec["nodeName"]).is_empty() && !list(&spec["schedulingGates"]).is_empty() {
        let what = "cannot be set until all schedulingGates have been cleared";
        errors.push(field::Error::forbidden(&path.child("nodeName"), what));
    }
    errors.extend(validate_images(spec, &path));
    errors
}

/// Every mistake in a pod's spec.
pub(crate) fn validate_spec(spec: &Value, whose: Whose, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if absent(&spec["terminationGracePeriodSeconds"]) {
        errors.push(field::Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let (good_volumes, mistakes) = volumes::validate(spec, path);
    errors.extend(mistakes);
    errors.extend(containers::validate(spec, &good_volumes, path));
    errors.extend(validate_host_network(spec, whose, path));
    errors.extend(validate_host_users(spec, path));
    errors.extend(choice(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path));
    errors.extend(dns::validate_policy(spec, path));
    errors.extend(labels::validate(&spec["nodeSelector"], &path.child("nodeSelector")));
    errors.extend(dns::validate_config(spec, path));
    errors.extend(validate_gates(spec, path));
    errors.extend(validate_names(spec, path));
    let deadline = &spec["activeDeadlineSeconds"];
    if !absent(deadline) {
        let mistakes = names::in_range(int(deadline), 1, i32::MAX.into());
        let path = path.child("activeDeadlineSeconds");
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, deadline.clone(), what)));
    }
    errors.extend(security::validate_pod(spec, path));
    errors.extend(placement::validate_affinity(spec, path));
    errors.extend(validate_tolerations(&spec["tolerations"], &path.child("tolerations")));
    errors.extend(validate_host_aliases(spec, &path.child("hostAliases")));
    errors.extend(one_of(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path));
    errors.extend(placement::validate_spread(spec, path));
    match text(&spec["os"]["name"]) {
        _ if absent(&spec["os"]) => {}
        "" => errors.push(field::Error::required(&path.child("os").child("name"), "")),
        "linux" | "windows" => {}
        other => errors.push(field::Error::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
    errors
}

/// Users of its own go with none of the host's namespaces.
fn validate_host_users(spec: &Value, path: &Path) -> Vec<field::Error> {
    if spec["hostUsers"] != Value::Bool(false) {
        return Vec::new();
    }
    // Upstream's spelling of the paths.
    let namespaces = [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")];
    let shared = namespaces.into_iter().filter(|(field, _)| flag(&spec[*field]));
    shared.map(|(_, shown)| field::Error::forbidden(&path.child(shown), "when `hostUsers` is false")).collect()
}

/// Mistakes in tolerations.
pub(super) fn validate_tolerations(tolerations: &Value, path: &Path) -> Vec<field::Error> {
    let tolerations = list(tolerations).iter().enumerate();
    tolerations.flat_map(|(i, toleration)| validate_toleration(toleration, &path.index(i))).collect()
}

fn validate_toleration(toleration: &Value, path: &Path) -> Vec<field::Error> {
    let (key, operator, value) = (text(&toleration["key"]), text(&toleration["operator"]), text(&toleration["value"]));
    let effect = text(&toleration["effect"]);
    let mut errors = Vec::new();
    if !key.is_empty() {
        let (path, mistakes) = (path.child("key"), names::qualified_name(key));
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, key, what)));
    }
    let operator_path = path.child("operator");
    if key.is_empty() && operator != "Exists" {
        let what = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(field::Error::invalid(&operator_path, operator, what));
    }
    if !absent(&toleration["tolerationSeconds"]) && effect != "NoExecute" {
        let what = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(field::Error::invalid(&path.child("effect"), effect, what));
    }
    match operator {
        "" | "Equal" => {
            let mistakes = names::label_value(value);
            if !mistakes.is_empty() {
                errors.push(field::Error::invalid(&operator_path, value, mistakes.join(";")));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            let what = "value must be empty when `operator` is 'Exists'";
            errors.push(field::Error::invalid(&operator_path, value, what));
        }
        other => errors.push(field::Error::not_supported(&operator_path, other, &["Equal", "Exists"])),
    }
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(field::Error::not_supported(&path.child("effect"), effect, EFFECTS));
    }
    errors
}

/// With the host's network, a container's port is the host's.
fn validate_host_network(spec: &Value, whose: Whose, path: &Path) -> Vec<field::Error> {
    if !flag(&spec["hostNetwork"]) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (i, container) in list(&spec["containers"]).iter().enumerate() {
        for (j, port) in list(&container["ports"]).iter().enumerate() {
            let (host, own) = (int(&port["hostPort"]), int(&port["containerPort"]));
            if (whose == Whose::Pod || host != 0) && host != own {
                let path = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let what = "must match `containerPort` when `hostNetwork` is true";
                errors.push(field::Error::invalid(&path, host, what));
            }
        }
    }
    errors
}

fn validate_gates(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, gate) in list(&spec["readinessGates"]).iter().enumerate() {
        let (kind, path) = (text(&gate["conditionType"]), path.child("readinessGates").index(i).child("conditionType"));
        let mistakes = names::qualified_name(kind);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, kind, what)));
    }
    let gates = list(&spec["schedulingGates"]);
    for (i, gate) in gates.iter().enumerate() {
        let (name, path) = (text(&gate["name"]), path.child("schedulingGates").index(i));
        let mistakes = names::qualified_name(name);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, name, what)));
        if gates[..i].iter().any(|other| text(&other["name"]) == name) {
            errors.push(field::Error::duplicate(&path, name));
        }
    }
    errors
}

/// The fields that name something else.
fn validate_names(spec: &Value, path: &Path) -> Vec<field::Error> {
    type Rule = fn(&str) -> Vec<String>;
    let subdomain: Rule = |name| names::dns_subdomain(name, false);
    let label: Rule = |name| names::dns_label(name, false);
    let fields = [
        ("serviceAccountName", subdomain),
        ("nodeName", subdomain),
        ("hostname", label),
        ("subdomain", label),
        ("priorityClassName", subdomain),
        ("runtimeClassName", subdomain),
    ];
    let mut errors = Vec::new();
    for (field, rule) in fields {
        let (name, path) = (text(&spec[field]), path.child(field));
        if !name.is_empty() {
            errors.extend(rule(name).into_iter().map(|what| field::Error::invalid(&path, name, what)));
        }
    }
    errors
}

fn validate_host_aliases(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, alias) in list(&spec["hostAliases"]).iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_legacy_ip(&path.child("ip"), text(&alias["ip"]), &[]));
        for (j, name) in texts(&alias["hostnames"]).into_iter().enumerate() {
            let path = path.child("hostnames").index(j);
            let mistakes = names::dns_subdomain(name, false);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, name, what)));
        }
    }
    errors
}

/// Templates may have spaces around an image's name, for old times' sake; Pods may not.
fn validate_images(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for list_name in ["containers", "initContainers"] {
        for (i, image) in list(&spec[list_name]).iter().map(|container| text(&container["image"])).enumerate() {
            if image.trim() != image {
                let path = path.child(list_name).index(i).child("image");
                errors.push(field::Error::invalid(&path, image, "must not have leading or trailing whitespace"));
            }
        }
    }
    errors
}
