//! What a Pod and its containers may ask of the kernel: users, groups, privileges, profiles, sysctls.

use std::collections::BTreeSet;

use serde_json::Value;

use super::volumes::validate_descending;
use crate::field::{self, Path};
use crate::names::{in_range, matches_sysctl};
use crate::tree::{absent, flag, int, list, text};

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const NAMESPACED_BY_NETWORK: &str = "net.";
const NAMESPACED_BY_IPC: &[&str] = &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Mistakes in the security context of a Pod.
pub(super) fn validate_pod(spec: &Value, path: &Path) -> Vec<field::Error> {
    let (context, path) = (&spec["securityContext"], path.child("securityContext"));
    let mut errors = Vec::new();
    errors.extend(validate_ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path));
    for (i, group) in list(&context["supplementalGroups"]).iter().enumerate() {
        errors.extend(validate_id(group, &path.child("supplementalGroups").index(i)));
    }
    if flag(&spec["shareProcessNamespace"]) && flag(&spec["hostPID"]) {
        let what = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(field::Error::invalid(&path.child("shareProcessNamespace"), true, what));
    }
    errors.extend(validate_sysctls(spec, &path.child("sysctls")));
    errors.extend(one_of(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path));
    errors.extend(validate_profiles(context, &path));
    errors.extend(one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path));
    errors
}

/// Mistakes in the security context of a container.
pub(super) fn validate_container(container: &Value, path: &Path) -> Vec<field::Error> {
    let (context, path) = (&container["securityContext"], path.child("securityContext"));
    if absent(context) {
        return Vec::new();
    }
    let mut errors = validate_ids(context, &["runAsUser", "runAsGroup"], &path);
    errors.extend(one_of(context, "procMount", &["Default", "Unmasked"], &path));
    errors.extend(validate_profiles(context, &path));
    if context["allowPrivilegeEscalation"] == false {
        let added = list(&context["capabilities"]["add"]).iter();
        let privileged = flag(&context["privileged"]).then_some("`privileged` to true");
        let admin = added.clone().any(|c| c == "CAP_SYS_ADMIN").then_some("`capabilities.Add` to CAP_SYS_ADMIN");
        for other in [privileged, admin].into_iter().flatten() {
            let what = format!("cannot set `allowPrivilegeEscalation` to false and {other}");
            errors.push(field::Error::invalid(&path, Value::Null, what).printed_as(internal(context)));
        }
    }
    errors
}

/// Mistakes in an optional field that has one of a few values.
pub(super) fn one_of(value: &Value, field: &str, choices: &[&str], path: &Path) -> Option<field::Error> {
    let value = &value[field];
    let good = absent(value) || choices.contains(&text(value));
    (!good).then(|| field::Error::not_supported(&path.child(field), value.clone(), choices))
}

fn validate_ids(context: &Value, fields: &[&str], path: &Path) -> Vec<field::Error> {
    fields.iter().flat_map(|field| validate_id(&context[*field], &path.child(field))).collect()
}

fn validate_id(id: &Value, path: &Path) -> Vec<field::Error> {
    if absent(id) {
        return Vec::new();
    }
    let mistakes = in_range(int(id), 0, i32::MAX.into());
    mistakes.into_iter().map(|what| field::Error::invalid(path, id.clone(), what)).collect()
}

fn validate_profiles(context: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    for (field, name) in [("seccompProfile", "seccomp type"), ("appArmorProfile", "type")] {
        let (profile, path) = (&context[field], path.child(field));
        if absent(profile) {
            continue;
        }
        let (kind, local) = (text(&profile["type"]), &profile["localhostProfile"]);
        let local_path = path.child("localhostProfile");
        match kind {
            "" => errors
                .push(field::Error::required(&path.child("type"), format!("type is required when {field} is set"))),
            "Localhost" if absent(local) => {
                errors.push(field::Error::required(&local_path, format!("must be set when {name} is Localhost")));
            }
            "Localhost" if field == "seccompProfile" => errors.extend(validate_descending(text(local), &local_path)),
            kind if PROFILES.contains(&kind) && kind != "Localhost" && !absent(local) => {
                let what = format!("can only be set when {name} is Localhost");
                errors.push(field::Error::invalid(&local_path, local.clone(), what));
            }
            kind if PROFILES.contains(&kind) => {}
            kind => errors.push(field::Error::not_supported(&path.child("type"), kind, PROFILES)),
        }
    }
    errors
}

fn validate_sysctls(spec: &Value, path: &Path) -> Vec<field::Error> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, sysctl) in list(&spec["securityContext"]["sysctls"]).iter().enumerate() {
        let (name, path) = (text(&sysctl["name"]), path.index(i).child("name"));
        if name.is_empty() {
            errors.push(field::Error::required(&path, ""));
        } else if let Some(what) = matches_sysctl(name) {
            errors.push(field::Error::invalid(&path, name, what));
        } else if !seen.insert(name) {
            errors.push(field::Error::duplicate(&path, name));
        }
        let shared = [
            ("hostNetwork", name.starts_with(NAMESPACED_BY_NETWORK)),
            ("hostIPC", NAMESPACED_BY_IPC.iter().any(|prefix| name.starts_with(prefix))),
        ];
        for (field, _) in shared.into_iter().filter(|(field, concerned)| *concerned && flag(&spec[*field])) {
            let what = format!("may not be specified when '{field}' is true");
            errors.push(field::Error::invalid(&path, name, what));
        }
    }
    errors
}

/// Upstream prints its internal struct: every field, capitalised, in this order.
fn internal(context: &Value) -> String {
    let fields = [
        "capabilities",
        "privileged",
        "seLinuxOptions",
        "windowsOptions",
        "runAsUser",
        "runAsGroup",
        "runAsNonRoot",
        "readOnlyRootFilesystem",
        "allowPrivilegeEscalation",
        "procMount",
        "seccompProfile",
        "appArmorProfile",
    ];
    let shown = fields.map(|field| {
        let name = match field {
            "seLinuxOptions" => "SELinuxOptions".to_owned(),
            other => other[..1].to_uppercase() + &other[1..],
        };
        format!("{name:?}:{}", context[field])
    });
    format!("{{{}}}", shown.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mistake_is_told_in_upstreams_words() {
        let cases = [
            (
                json!({"runAsUser": -1}),
                "c.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ),
            (
                json!({"procMount": "x"}),
                r#"c.securityContext.procMount: Unsupported value: "x": supported values: "Default", "Unmasked""#,
            ),
            (
                json!({"seccompProfile": {"type": "Localhost"}}),
                "c.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ),
            (
                json!({"allowPrivilegeEscalation": false, "privileged": true}),
                "c.securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\
                 \"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\
                 \"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\
                 \"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ),
        ];
        for (context, expected) in cases {
            let found = validate_container(&json!({"securityContext": context}), &Path::new("c"));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
        }
        let pod = json!({"hostNetwork": true, "securityContext": {"fsGroup": -1, "supplementalGroups": [1, -2],
            "sysctls": [{"name": "a b"}, {"name": "net.a"}, {"name": "kernel.x"}, {"name": "kernel.x"}]}});
        let found: Vec<String> = validate_pod(&pod, &Path::new("spec")).iter().map(|e| e.path.to_string()).collect();
        let expected = ["fsGroup", "supplementalGroups[1]", "sysctls[0].name", "sysctls[1].name", "sysctls[3].name"];
        assert_eq!(found, expected.map(|field| format!("spec.securityContext.{field}")));
    }
}
