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
    note(spec.host_pid == Some(true), "spec.hostPID");
    note(spec.host_ipc == Some(true), "spec.hostIPC");
    note(spec.host_users == Some(false), "spec.hostUsers");
    note(spec.share_process_namespace == Some(true), "spec.shareProcessNamespace");
    note(spec.runtime_class_name.is_some(), "spec.runtimeClassName");
    note(spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()), "spec.resourceClaims");
    note(spec.resources.is_some(), "spec.resources");
    note(spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()), "spec.ephemeralContainers");
    note(spec.image_pull_secrets.as_ref().is_some_and(|list| !list.is_empty()), "spec.imagePullSecrets");
    if let Some(context) = &spec.security_context {
        note(context.sysctls.as_ref().is_some_and(|list| !list.is_empty()), "spec.securityContext.sysctls");
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
    note(container.ports.iter().flatten().any(|port| port.host_port.is_some_and(|port| port != 0)), "ports.hostPort");
    note(container.volume_devices.as_ref().is_some_and(|list| !list.is_empty()), "volumeDevices");
    note(container.restart_policy_rules.as_ref().is_some_and(|list| !list.is_empty()), "restartPolicyRules");
    // The defaults come with every pod and are no wish of anybody's.
    let path = container.termination_message_path.as_deref();
    note(path.is_some_and(|path| path != "/dev/termination-log"), "terminationMessagePath");
    let policy = container.termination_message_policy.as_deref();
    note(policy.is_some_and(|policy| policy != "File"), "terminationMessagePolicy");
    let propagates = |mode: &Option<String>| mode.as_deref().is_some_and(|mode| mode != "None");
    note(
        container.volume_mounts.iter().flatten().any(|mount| propagates(&mount.mount_propagation)),
        "volumeMounts.mountPropagation",
    );
    for probe in [&container.startup_probe, &container.readiness_probe, &container.liveness_probe].into_iter().flatten()
    {
        note(probe.grpc.is_some(), "probe.grpc");
    }
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
        let odd = spec::testing::pod(json!({"hostPID": true, "containers": [{"name": "m",
            "ports": [{"containerPort": 80, "hostPort": 8080}],
            "livenessProbe": {"grpc": {"port": 1}}}]}));
        let expected = ["spec.hostPID", "spec.containers{m}.ports.hostPort", "spec.containers{m}.probe.grpc"];
        assert_eq!(fields(&odd), expected);
    }
}
