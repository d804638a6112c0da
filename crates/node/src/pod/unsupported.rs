//! Which fields of a Pod this agent doesn't act on. They are named in an Event: nothing is ignored in silence.
//!
//! Volumes of unknown kinds are not here: they keep a pod from starting (`volumes`).

use k8s_openapi::api::core::v1::{Container, Pod};

use super::spec;

/// The paths of set fields that change nothing here.
pub fn fields(pod: &Pod) -> Vec<String> {
    let spec = spec::spec(pod);
    let mut found = Vec::new();
    let mut note = |set: bool, path: &str| {
        if set {
            found.push(path.to_owned());
        }
    };
    note(spec.host_users == Some(false), "spec.hostUsers");
    note(spec.share_process_namespace == Some(true), "spec.shareProcessNamespace");
    note(spec.runtime_class_name.is_some(), "spec.runtimeClassName");
    note(spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()), "spec.resourceClaims");
    note(spec.resources.is_some(), "spec.resources");
    note(spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()), "spec.ephemeralContainers");
    // Set by hand, it asks for a token; the default asks nobody.
    note(spec.automount_service_account_token == Some(true), "spec.automountServiceAccountToken");
    note(spec.overhead.as_ref().is_some_and(|list| !list.is_empty()), "spec.overhead");
    if let Some(context) = &spec.security_context {
        let strict = context.supplemental_groups_policy.as_deref().is_some_and(|policy| policy != "Merge");
        note(strict, "spec.securityContext.supplementalGroupsPolicy");
        note(context.fs_group_change_policy.is_some(), "spec.securityContext.fsGroupChangePolicy");
        note(
            context.seccomp_profile.as_ref().is_some_and(|p| p.type_ != "Unconfined"),
            "spec.securityContext.seccompProfile",
        );
        note(
            context.app_armor_profile.as_ref().is_some_and(|p| p.type_ != "Unconfined"),
            "spec.securityContext.appArmorProfile",
        );
        note(context.se_linux_options.is_some(), "spec.securityContext.seLinuxOptions");
        note(context.windows_options.is_some(), "spec.securityContext.windowsOptions");
    }
    for member in spec::members(pod) {
        container(member.container, &mut found);
    }
    found
}

fn container(container: &Container, found: &mut Vec<String>) {
    let prefix = format!("spec.containers{{{}}}", container.name);
    let mut note = |set: bool, path: &str| {
        if set {
            found.push(format!("{prefix}.{path}"));
        }
    };
    note(container.volume_devices.as_ref().is_some_and(|list| !list.is_empty()), "volumeDevices");
    note(container.stdin_once == Some(true), "stdinOnce");
    note(container.restart_policy_rules.as_ref().is_some_and(|list| !list.is_empty()), "restartPolicyRules");
    let claims = container.resources.as_ref().and_then(|resources| resources.claims.as_ref());
    note(claims.is_some_and(|list| !list.is_empty()), "resources.claims");
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let known = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    note(limits.is_some_and(|limits| limits.keys().any(|name| !known(name))), "resources.limits");
    let propagates = |mode: &Option<String>| mode.as_deref().is_some_and(|mode| mode != "None");
    note(
        container.volume_mounts.iter().flatten().any(|mount| propagates(&mount.mount_propagation)),
        "volumeMounts.mountPropagation",
    );
    let recursive = |mode: &Option<String>| mode.as_deref() == Some("Enabled");
    note(
        container.volume_mounts.iter().flatten().any(|mount| recursive(&mount.recursive_read_only)),
        "volumeMounts.recursiveReadOnly",
    );
    if let Some(context) = &container.security_context {
        note(
            context.seccomp_profile.as_ref().is_some_and(|p| p.type_ != "Unconfined"),
            "securityContext.seccompProfile",
        );
        note(
            context.app_armor_profile.as_ref().is_some_and(|p| p.type_ != "Unconfined"),
            "securityContext.appArmorProfile",
        );
        note(context.se_linux_options.is_some(), "securityContext.seLinuxOptions");
        note(context.windows_options.is_some(), "securityContext.windowsOptions");
        note(context.proc_mount.as_deref().is_some_and(|mount| mount != "Default"), "securityContext.procMount");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn set_fields_are_named_and_an_ordinary_pod_has_none() {
        let plain = spec::testing::pod(json!({"containers": [{"name": "m", "ports": [{"containerPort": 80}]}]}));
        assert!(fields(&plain).is_empty());
        let odd = spec::testing::pod(
            json!({"shareProcessNamespace": true, "securityContext": {"fsGroupChangePolicy": "Always"},
            "containers": [{"name": "m", "stdin": true, "stdinOnce": true,
            "livenessProbe": {"grpc": {"port": 1}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}]}),
        );
        let expected = [
            "spec.shareProcessNamespace",
            "spec.securityContext.fsGroupChangePolicy",
            "spec.containers{m}.stdinOnce",
            "spec.containers{m}.volumeMounts.mountPropagation",
        ];
        assert_eq!(fields(&odd), expected);
    }
}
