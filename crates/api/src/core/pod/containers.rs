//! What a container may look like.

use std::collections::BTreeSet;

use serde_json::Value;

use super::handlers::{validate_lifecycle, validate_probes};
use super::security::one_of;
use super::volumes::validate_mounts;
use super::{resources, security};
use crate::core::service::validate_protocol;
use crate::field::{self, Path};
use crate::names;
use crate::tree::{absent, entries, int, list, text};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
/// What the downward API knows of a Pod, and of that what variables may hold; each sorted.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_PATHS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Mistakes in the containers and init containers of a spec. `volumes` are the names of the good volumes.
pub(super) fn validate(spec: &Value, volumes: &BTreeSet<&str>, path: &Path) -> Vec<field::Error> {
    let grace = int(&spec["terminationGracePeriodSeconds"]);
    let containers = list(&spec["containers"]);
    let containers_path = path.child("containers");
    if containers.is_empty() {
        return vec![field::Error::required(&containers_path, "")];
    }
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = containers_path.index(i);
        errors.extend(validate_common(container, volumes, &path));
        if !seen.insert(text(&container["name"])) {
            errors.push(field::Error::duplicate(&path.child("name"), text(&container["name"])));
        }
        errors.extend(validate_lifecycle(container, grace, &path));
        errors.extend(validate_probes(container, grace, &path));
        errors.extend(one_of(container, "restartPolicy", RESTART_POLICIES, &path));
    }
    errors.extend(validate_host_ports(containers, &containers_path));
    for (i, container) in list(&spec["initContainers"]).iter().enumerate() {
        let path = path.child("initContainers").index(i);
        errors.extend(validate_common(container, volumes, &path));
        let name = text(&container["name"]);
        if !name.is_empty() && !seen.insert(name) {
            errors.push(field::Error::duplicate(&path.child("name"), name));
        }
        errors.extend(validate_init(container, grace, &path));
    }
    errors
}

/// Init containers are over before a probe or a hook could matter, unless they are sidecars.
fn validate_init(container: &Value, grace: i64, path: &Path) -> Vec<field::Error> {
    let mut errors: Vec<field::Error> =
        one_of(container, "restartPolicy", RESTART_POLICIES, path).into_iter().collect();
    if text(&container["restartPolicy"]) == "Always" {
        errors.extend(validate_lifecycle(container, grace, path));
        errors.extend(validate_probes(container, grace, path));
        return errors;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !absent(&container[field]) {
            let what = "may not be set for init containers without restartPolicy=Always";
            errors.push(field::Error::forbidden(&path.child(field), what));
        }
    }
    errors
}

fn validate_common(container: &Value, volumes: &BTreeSet<&str>, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let (name, name_path) = (text(&container["name"]), path.child("name"));
    if name.is_empty() {
        errors.push(field::Error::required(&name_path, ""));
    } else {
        let mistakes = names::dns_label(name, false);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
    }
    if text(&container["image"]).is_empty() {
        errors.push(field::Error::required(&path.child("image"), ""));
    }
    errors.extend(choice(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path));
    errors.extend(validate_ports(container, &path.child("ports")));
    errors.extend(validate_env(container, &path.child("env")));
    errors.extend(validate_env_from(container, &path.child("envFrom")));
    errors.extend(validate_mounts(container, volumes, path));
    errors.extend(choice(container, "imagePullPolicy", PULL_POLICIES, path));
    errors.extend(resources::validate(&container["resources"], &path.child("resources")));
    errors.extend(validate_resize_policy(container, &path.child("resizePolicy")));
    errors.extend(security::validate_container(container, path));
    errors
}

/// A required field that has one of a few values.
pub(super) fn choice(value: &Value, field: &str, choices: &[&str], path: &Path) -> Option<field::Error> {
    let path = path.child(field);
    match text(&value[field]) {
        "" => Some(field::Error::required(&path, "")),
        chosen if choices.contains(&chosen) => None,
        chosen => Some(field::Error::not_supported(&path, chosen, choices)),
    }
}

fn validate_resize_policy(container: &Value, path: &Path) -> Vec<field::Error> {
    let (resources, policies) = (&["cpu", "memory"], &["NotRequired", "RestartContainer"]);
    let mut errors = Vec::new();
    for policy in list(&container["resizePolicy"]) {
        for (field, choices) in [("resourceName", resources), ("restartPolicy", policies)] {
            if !choices.contains(&text(&policy[field])) {
                errors.push(field::Error::not_supported(path, policy[field].clone(), choices));
            }
        }
    }
    errors
}

fn validate_ports(container: &Value, path: &Path) -> Vec<field::Error> {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, port) in list(&container["ports"]).iter().enumerate() {
        let path = path.index(i);
        let (name, name_path) = (text(&port["name"]), path.child("name"));
        if !name.is_empty() {
            let mistakes = names::port_name(name);
            if mistakes.is_empty() && !seen.insert(name) {
                errors.push(field::Error::duplicate(&name_path, name));
            }
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
        }
        for (field, required) in [("containerPort", true), ("hostPort", false)] {
            let (number, path) = (int(&port[field]), path.child(field));
            if number == 0 {
                errors.extend(required.then(|| field::Error::required(&path, "")));
                continue;
            }
            let mistakes = names::port_number(number);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, number, what)));
        }
        errors.extend(validate_protocol(port, &path));
    }
    errors
}

fn validate_host_ports(containers: &[Value], path: &Path) -> Vec<field::Error> {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(&container["ports"]).iter().enumerate().filter(|(_, port)| int(&port["hostPort"]) != 0) {
            let key = format!("{}/{}/{}", text(&port["protocol"]), text(&port["hostIP"]), int(&port["hostPort"]));
            if !seen.insert(key.clone()) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(field::Error::duplicate(&path, key));
            }
        }
    }
    errors
}

fn validate_env(container: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, variable) in list(&container["env"]).iter().enumerate() {
        let path = path.index(i);
        let (name, name_path) = (text(&variable["name"]), path.child("name"));
        if name.is_empty() {
            errors.push(field::Error::required(&name_path, ""));
        } else {
            let mistakes = names::env_var_name(name);
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
        }
        if !absent(&variable["valueFrom"]) {
            errors.extend(validate_value_from(variable, &path.child("valueFrom")));
        }
    }
    errors
}

fn validate_value_from(variable: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let mut sources = 0;
    for (source, value) in entries(&variable["valueFrom"]).filter(|(_, value)| !absent(value)) {
        sources += 1;
        let path = path.child(source);
        match source {
            "fieldRef" => errors.extend(validate_field_ref(value, FIELD_PATHS, &path)),
            "resourceFieldRef" => errors.extend(validate_resource_ref(value, &path)),
            "configMapKeyRef" | "secretKeyRef" => errors.extend(validate_key_ref(value, &path)),
            _ => {}
        }
    }
    let what = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if !text(&variable["value"]).is_empty() => "may not be specified when `value` is not empty",
        1 => return errors,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(field::Error::invalid(path, "", what));
    errors
}

/// A field of the Pod; `supported` are those that the place may show.
pub(super) fn validate_field_ref(reference: &Value, supported: &[&str], path: &Path) -> Vec<field::Error> {
    let field_path = text(&reference["fieldPath"]);
    let at = path.child("fieldPath");
    if text(&reference["apiVersion"]).is_empty() {
        return vec![field::Error::required(&path.child("apiVersion"), "")];
    }
    if field_path.is_empty() {
        return vec![field::Error::required(&at, "")];
    }
    match field_path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some(("metadata.annotations", key)) => qualified(&key.to_lowercase(), path),
        Some(("metadata.labels", key)) => qualified(key, path),
        Some((other, _)) => vec![field::Error::invalid(path, other, "does not support subscript")],
        None if supported.contains(&field_path) => Vec::new(),
        None if KNOWN_FIELDS.contains(&field_path) => vec![field::Error::not_supported(&at, field_path, supported)],
        None => {
            let what = format!("error converting fieldPath: field label not supported: {field_path}");
            vec![field::Error::invalid(&at, field_path, what)]
        }
    }
}

/// A resource of a container.
pub(super) fn validate_resource_ref(reference: &Value, path: &Path) -> Option<field::Error> {
    let (resource, path) = (text(&reference["resource"]), path.child("resource"));
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    match resource {
        "" => Some(field::Error::required(&path, "")),
        _ if huge || RESOURCE_PATHS.contains(&resource) => None,
        _ => Some(field::Error::not_supported(&path, resource, RESOURCE_PATHS)),
    }
}

fn qualified(key: &str, path: &Path) -> Vec<field::Error> {
    names::qualified_name(key).into_iter().map(|what| field::Error::invalid(path, key, what)).collect()
}

fn validate_key_ref(reference: &Value, path: &Path) -> Vec<field::Error> {
    let (name, key) = (text(&reference["name"]), text(&reference["key"]));
    let (name_path, key_path) = (path.child("name"), path.child("key"));
    let mistakes = names::dns_subdomain(name, false);
    let mut errors: Vec<field::Error> =
        mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)).collect();
    if key.is_empty() {
        errors.push(field::Error::required(&key_path, ""));
    } else {
        let mistakes = names::config_map_key(key);
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&key_path, key, what)));
    }
    errors
}

fn validate_env_from(container: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (i, source) in list(&container["envFrom"]).iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&source["prefix"]);
        if !prefix.is_empty() {
            let (path, mistakes) = (at.child("prefix"), names::env_var_name(prefix));
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, prefix, what)));
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"].into_iter().filter(|field| !absent(&source[*field])) {
            sources += 1;
            if text(&source[field]["name"]).is_empty() {
                errors.push(field::Error::required(&at.child(field).child("name"), ""));
            }
        }
        match sources {
            0 => errors.push(field::Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(field::Error::invalid(path, "", "may not have more than one field specified at a time")),
        }
    }
    errors
}
