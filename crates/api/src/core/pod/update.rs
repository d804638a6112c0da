//! What may change about a Pod once it exists: little of its spec, and nothing of its past.

use serde_json::Value;

use super::validation::{Whose, validate_spec, validate_tolerations};
use crate::address::{IpFamily, parse_ip, validate_legacy_ip};
use crate::field::{self, Path};
use crate::names;
use crate::tree::{absent, child_mut, copy, elements_mut, entries, int, list, same, text, unset};

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Every mistake in an update of the spec.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<field::Error> {
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    let mut errors = validate_spec(spec, Whose::Pod, &path);
    for field in ["containers", "initContainers"] {
        errors.extend(validate_images(spec, field, &path.child(field)));
    }
    for field in ["containers", "initContainers"] {
        let path = path.child(field);
        if list(&spec[field]).len() != list(&before[field]).len() {
            errors.push(field::Error::forbidden(&path, "pod updates may not add or remove containers"));
            return errors;
        }
    }
    let (mistakes, stop) = validate_deadline(spec, before, &path.child("activeDeadlineSeconds"));
    errors.extend(mistakes);
    if stop {
        return errors;
    }
    errors.extend(validate_added_tolerations(spec, before, &path.child("tolerations")));
    errors.extend(validate_removed_gates(spec, before, &path.child("schedulingGates")));
    let changed = immutable_changes(spec, before);
    if !changed.is_empty() {
        errors.push(field::Error::forbidden(&path, format!("{MUTABLE}\nchanged: {}", changed.join(", "))));
    }
    errors
}

/// Every mistake in an update of the status.
pub(super) fn validate_status(new: &Value, old: &Value) -> Vec<field::Error> {
    let (status, before, path) = (&new["status"], &old["status"], Path::new("status"));
    let mut errors = Vec::new();
    for (i, condition) in list(&status["conditions"]).iter().enumerate() {
        let (kind, path) = (text(&condition["type"]), path.child("conditions").index(i));
        if int(&condition["observedGeneration"]) < 0 {
            let generation = int(&condition["observedGeneration"]);
            let what = "must be a non-negative integer";
            errors.push(field::Error::invalid(&path.child("observedGeneration"), generation, what));
        }
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind) {
            let (path, mistakes) = (path.child("Type"), names::qualified_name(kind));
            errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, kind, what)));
        }
    }
    let (class, class_before) = (text(&status["qosClass"]), text(&before["qosClass"]));
    errors.extend(validate_addresses(status, &path));
    let nominated = text(&status["nominatedNodeName"]);
    if !nominated.is_empty() {
        let (path, mistakes) = (path.child("nominatedNodeName"), names::dns_subdomain(nominated, false));
        errors.extend(mistakes.into_iter().map(|what| field::Error::invalid(&path, nominated, what)));
    }
    if class != class_before {
        errors.push(field::Error::invalid(&path.child("qosClass"), class, "field is immutable"));
    }
    errors.extend(validate_transitions(old, new, &path.child("containerStatuses")));
    errors
}

/// A pod has one address of each family at most.
fn validate_addresses(status: &Value, path: &Path) -> Vec<field::Error> {
    let path = path.child("podIPs");
    let ips: Vec<&str> = list(&status["podIPs"]).iter().map(|ip| text(&ip["ip"])).collect();
    let mut errors: Vec<field::Error> =
        ips.iter().enumerate().flat_map(|(i, ip)| validate_legacy_ip(&path.index(i), ip, &[])).collect();
    let families: Vec<IpFamily> = ips.iter().filter_map(|ip| parse_ip(ip)).map(IpFamily::of).collect();
    let twice = families.len() > 1 && (families.len() > 2 || families[0] == families[1]);
    if errors.is_empty() && twice {
        let printed: Vec<String> = ips.iter().map(|ip| format!("{{\"IP\":{ip:?}}}")).collect();
        let what = "may specify no more than one IP for each IP family";
        let printed = format!("[{}]", printed.join(","));
        errors.push(field::Error::invalid(&path, Value::Null, what).printed_as(printed));
    }
    errors
}

/// What has ended and is not to be restarted stays ended.
fn validate_transitions(old: &Value, new: &Value, path: &Path) -> Vec<field::Error> {
    let policy = text(&old["spec"]["restartPolicy"]);
    let mut errors = Vec::new();
    for (i, before) in list(&old["status"]["containerStatuses"]).iter().enumerate() {
        let end = &before["state"]["terminated"];
        let restartable = policy == "Always" || policy == "OnFailure" && int(&end["exitCode"]) != 0;
        if absent(end) || restartable {
            continue;
        }
        let now = list(&new["status"]["containerStatuses"]).iter().find(|now| now["name"] == before["name"]);
        if now.is_some_and(|now| absent(&now["state"]["terminated"])) {
            let path = path.index(i).child("state");
            errors.push(field::Error::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
    errors
}

fn validate_images(spec: &Value, field: &str, path: &Path) -> Vec<field::Error> {
    let images = list(&spec[field]).iter().map(|container| text(&container["image"])).enumerate();
    images
        .filter(|(_, image)| image.trim() != *image)
        .map(|(i, image)| {
            let path = path.index(i).child("image");
            field::Error::invalid(&path, image, "must not have leading or trailing whitespace")
        })
        .collect()
}

/// A deadline may be set and lowered. The second answer says whether the rest need not be looked at.
fn validate_deadline(spec: &Value, before: &Value, path: &Path) -> (Vec<field::Error>, bool) {
    let (now, before) = (&spec["activeDeadlineSeconds"], &before["activeDeadlineSeconds"]);
    if absent(now) {
        let what = "must not update from a positive integer to nil value";
        let lost = (!absent(before)).then(|| field::Error::invalid(path, Value::Null, what));
        return (lost.into_iter().collect(), false);
    }
    let mistakes = names::in_range(int(now), 0, i32::MAX.into());
    if !mistakes.is_empty() {
        return (mistakes.into_iter().map(|what| field::Error::invalid(path, now.clone(), what)).collect(), true);
    }
    if !absent(before) && int(before) < int(now) {
        let what = "must be less than or equal to previous value";
        return (vec![field::Error::invalid(path, now.clone(), what)], true);
    }
    (Vec::new(), false)
}

fn validate_added_tolerations(spec: &Value, before: &Value, path: &Path) -> Vec<field::Error> {
    let seconds_aside = |toleration: &Value| {
        let mut toleration = toleration.clone();
        crate::tree::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = list(&spec["tolerations"]).iter().map(seconds_aside).collect();
    let kept = |old: &Value| now.iter().any(|new| same(new, &seconds_aside(old)));
    if !list(&before["tolerations"]).iter().all(kept) {
        let what = "existing toleration can not be modified except its tolerationSeconds";
        return vec![field::Error::forbidden(path, what)];
    }
    validate_tolerations(&spec["tolerations"], path)
}

fn validate_removed_gates(spec: &Value, before: &Value, path: &Path) -> Vec<field::Error> {
    let old: Vec<&str> = list(&before["schedulingGates"]).iter().map(|gate| text(&gate["name"])).collect();
    let now: Vec<&str> = list(&spec["schedulingGates"]).iter().map(|gate| text(&gate["name"])).collect();
    let added = now.iter().enumerate().filter(|(_, name)| !old.contains(name));
    // Of one name several times, the last is told.
    added
        .filter(|(i, name)| !now[i + 1..].contains(name))
        .map(|(i, name)| {
            let what = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            field::Error::forbidden(&path.index(i).child("name"), what)
        })
        .collect()
}

/// The names of changed fields that may not change.
fn immutable_changes(spec: &Value, before: &Value) -> Vec<String> {
    let mut munged = spec.clone();
    for field in ["containers", "initContainers"] {
        for (container, before) in elements_mut(&mut munged, field).zip(list(&before[field])) {
            copy(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(&mut munged, before, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if int(&before[grace]) < 0 && int(&munged[grace]) == 1 {
        copy(&mut munged, before, grace);
    }
    // A Pod that isn't to be scheduled yet may narrow down where to.
    if !list(&before["schedulingGates"]).is_empty() && only_adds(&munged["nodeSelector"], &before["nodeSelector"]) {
        *child_mut(&mut munged, "nodeSelector") = before["nodeSelector"].clone();
    }
    let mut changed: Vec<String> = entries(&munged)
        .chain(entries(before))
        .map(|(field, _)| field)
        .filter(|field| munged[*field] != before[*field])
        .map(|field| format!("spec.{field}"))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

fn only_adds(now: &Value, before: &Value) -> bool {
    unset(before) || entries(before).all(|(key, value)| now.get(key) == Some(value))
}
