//! What volumes a Pod may have and how containers may mount them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::containers::{validate_field_ref, validate_resource_ref};
use super::security::one_of;
use crate::field::{self, Path};
use crate::names;
use crate::tree::{absent, entries, flag, int, list, text, unset};

/// What files may show of their Pod.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Mistakes in the volumes, and the names of the good ones.
pub(super) fn validate<'a>(spec: &'a Value, path: &Path) -> (BTreeSet<&'a str>, Vec<field::Error>) {
    let mut good = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, volume) in list(&spec["volumes"]).iter().enumerate() {
        let path = path.child("volumes").index(i);
        let (name, name_path) = (text(&volume["name"]), path.child("name"));
        let mut found = validate_source(volume, &path);
        if name.is_empty() {
            found.push(field::Error::required(&name_path, ""));
        } else {
            let mistakes = names::dns_label(name, false);
            found.extend(mistakes.into_iter().map(|what| field::Error::invalid(&name_path, name, what)));
        }
        if good.contains(name) {
            found.push(field::Error::duplicate(&name_path, name));
        }
        if found.is_empty() {
            good.insert(name);
        }
        errors.extend(found);
    }
    (good, errors)
}

/// Mistakes in a container's mounts.
pub(super) fn validate_mounts(container: &Value, volumes: &BTreeSet<&str>, path: &Path) -> Vec<field::Error> {
    let mounts_path = path.child("volumeMounts");
    let mut points = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, mount) in list(&container["volumeMounts"]).iter().enumerate() {
        let path = mounts_path.index(i);
        let (name, point) = (text(&mount["name"]), text(&mount["mountPath"]));
        if name.is_empty() {
            errors.push(field::Error::required(&path.child("name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(field::Error::not_found(&path.child("name"), name));
        }
        if point.is_empty() {
            errors.push(field::Error::required(&path.child("mountPath"), ""));
        }
        if !points.insert(point) {
            errors.push(field::Error::invalid(&path.child("mountPath"), point, "must be unique"));
        }
        let propagations = &["Bidirectional", "HostToContainer", "None"];
        // Upstream leaves the mount's index out of these paths.
        errors.extend(one_of(mount, "mountPropagation", propagations, &mounts_path));
        errors.extend(validate_recursion(mount, &mounts_path.child("recursiveReadOnly")));
        for field in ["subPath", "subPathExpr"] {
            let sub_path = text(&mount[field]);
            if field == "subPathExpr" && !sub_path.is_empty() && !text(&mount["subPath"]).is_empty() {
                let what = "subPathExpr and subPath are mutually exclusive";
                errors.push(field::Error::invalid(&path.child(field), sub_path, what));
            }
            if !sub_path.is_empty() {
                // Upstream leaves the mount's index out of this path.
                errors.extend(validate_descending(sub_path, &mounts_path.child(field)));
            }
        }
    }
    errors
}

fn validate_recursion(mount: &Value, path: &Path) -> Option<field::Error> {
    let wanted = &mount["recursiveReadOnly"];
    let choices = &["Disabled", "IfPossible", "Enabled"];
    match text(wanted) {
        _ if absent(wanted) => None,
        "Disabled" => None,
        "IfPossible" | "Enabled" if !flag(&mount["readOnly"]) => {
            Some(field::Error::forbidden(path, "may only be specified when readOnly is true"))
        }
        "IfPossible" | "Enabled" => None,
        _ => Some(field::Error::not_supported(path, wanted.clone(), choices)),
    }
}

fn validate_source(volume: &Value, path: &Path) -> Vec<field::Error> {
    // Among several, the ones that upstream looks at first.
    const FIRST: &[&str] =
        &["emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs"];
    let mut sources: Vec<(&str, &Value)> =
        entries(volume).filter(|(field, value)| *field != "name" && !absent(value)).collect();
    sources.sort_by_key(|(field, _)| FIRST.iter().position(|first| first == field).unwrap_or(FIRST.len()));
    let mut errors = Vec::new();
    if sources.is_empty() {
        errors.push(field::Error::required(path, "must specify a volume type"));
    }
    for (i, (source, value)) in sources.into_iter().enumerate() {
        let path = path.child(source);
        if i > 0 {
            errors.push(field::Error::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        errors.extend(match source {
            "emptyDir" => validate_empty_dir(value, &path).into_iter().collect(),
            "hostPath" => validate_host_path(value, &path),
            "secret" => validate_files(value, "secretName", &path),
            "configMap" => validate_files(value, "name", &path),
            "persistentVolumeClaim" => required(value, "claimName", &path).into_iter().collect(),
            "nfs" => ["server", "path"].into_iter().filter_map(|field| required(value, field, &path)).collect(),
            "downwardAPI" => validate_downward(value, &path),
            "projected" => validate_mode(value, &path).into_iter().collect(),
            _ => Vec::new(),
        });
    }
    errors
}

/// Files with facts about the Pod. Upstream names no index of a file.
fn validate_downward(source: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors: Vec<field::Error> = validate_mode(source, path).into_iter().collect();
    for file in list(&source["items"]) {
        if text(&file["path"]).is_empty() {
            errors.push(field::Error::required(&path.child("path"), ""));
        }
        errors.extend(validate_descending(text(&file["path"]), &path.child("path")));
        let (fields, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
        if !absent(fields) {
            errors.extend(validate_field_ref(fields, FILE_FIELDS, &path.child("fieldRef")));
            if !absent(resource) {
                let what = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(field::Error::invalid(path, "resource", what));
            }
        } else if absent(resource) {
            errors.push(field::Error::required(path, "one of fieldRef and resourceFieldRef is required"));
        } else if text(&resource["containerName"]).is_empty() {
            errors.push(field::Error::required(&path.child("resourceFieldRef").child("containerName"), ""));
        } else {
            errors.extend(validate_resource_ref(resource, &path.child("resourceFieldRef")));
        }
    }
    errors
}

fn validate_empty_dir(source: &Value, path: &Path) -> Option<field::Error> {
    let limit = &source["sizeLimit"];
    let negative = !absent(limit) && text(limit).starts_with('-');
    let what = "SizeLimit field must be a valid resource quantity";
    negative.then(|| field::Error::forbidden(&path.child("sizeLimit"), what))
}

fn required(value: &Value, field: &str, path: &Path) -> Option<field::Error> {
    unset(&value[field]).then(|| field::Error::required(&path.child(field), ""))
}

fn validate_host_path(source: &Value, path: &Path) -> Vec<field::Error> {
    let host_path = text(&source["path"]);
    if host_path.is_empty() {
        return vec![field::Error::required(&path.child("path"), "")];
    }
    let mut errors = validate_no_steps_back(host_path, &path.child("path"));
    let kind = &source["type"];
    if !absent(kind) && !HOST_PATH_TYPES.contains(&text(kind)) {
        errors.push(field::Error::not_supported(&path.child("type"), kind.clone(), HOST_PATH_TYPES));
    }
    errors
}

fn validate_files(source: &Value, name: &str, path: &Path) -> Vec<field::Error> {
    let mut errors: Vec<field::Error> = required(source, name, path).into_iter().collect();
    errors.extend(validate_mode(source, path));
    for (i, item) in list(&source["items"]).iter().enumerate() {
        let path = path.child("items").index(i);
        errors.extend(required(item, "key", &path));
        errors.extend(required(item, "path", &path));
        errors.extend(validate_descending(text(&item["path"]), &path.child("path")));
        let mode = &item["mode"];
        if !absent(mode) && !(0..=0o777).contains(&int(mode)) {
            errors.push(field::Error::invalid(&path.child("mode"), mode.clone(), MODE));
        }
    }
    errors
}

fn validate_mode(source: &Value, path: &Path) -> Option<field::Error> {
    let mode = &source["defaultMode"];
    let bad = !absent(mode) && !(0..=0o777).contains(&int(mode));
    bad.then(|| field::Error::invalid(&path.child("defaultMode"), mode.clone(), MODE))
}

pub(super) fn validate_descending(target: &str, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    if target.starts_with('/') {
        errors.push(field::Error::invalid(path, target, "must be a relative path"));
    }
    errors.extend(validate_no_steps_back(target, path));
    errors
}

fn validate_no_steps_back(target: &str, path: &Path) -> Vec<field::Error> {
    if target.split('/').any(|part| part == "..") {
        return vec![field::Error::invalid(path, target, "must not contain '..'")];
    }
    Vec::new()
}
