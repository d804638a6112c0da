//! A `ContainerSpec` from a container of a Pod.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements, SecurityContext, VolumeMount};
use pod_runtime::{ContainerSpec, LogLimit, Mount, Resources};

use super::env::{EnvError, environment};
use super::expand::expand;
use super::{Facts, Sources, quantity};
use crate::pod::spec::{self, PodKey};
use crate::volumes;

/// Why a container can't be configured; shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error("volumeMounts: there is no volume {0:?}")]
    Volume(String),
    #[error("volumeMounts: {0:?} is not a path inside the volume")]
    SubPath(String),
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunAsRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \
         {pod:?}, container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("{field} {value} is out of range")]
    Id { field: &'static str, value: i64 },
}

/// What lies ready on the node for a container.
#[derive(Clone, Debug, Default)]
pub struct FilesAndMounts {
    /// Volumes by name.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Files that every container of the pod has, unless it mounts something there itself.
    pub files: Vec<Mount>,
    pub log_path: PathBuf,
    /// Whom the image runs as: `uid[:gid]` or names; empty is root.
    pub image_user: String,
    /// How many processes and threads it may have.
    pub pids_limit: Option<u32>,
}

/// The container, and the parts of volumes (root, path inside) that must exist before it starts.
pub fn build(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    prepared: FilesAndMounts,
    sources: &Sources,
    facts: &Facts<'_>,
) -> Result<(ContainerSpec, Vec<(PathBuf, PathBuf)>), ContainerError> {
    let env = environment(pod, container, sources, facts)?;
    let lookup = |name: &str| env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let expanded = |texts: &Option<Vec<String>>| texts.iter().flatten().map(|text| expand(text, lookup)).collect();
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let (mounts, parts) = mounts(pod, container, &prepared, lookup)?;
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let spec = ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        mounts,
        user: user(pod, container, &own, &prepared.image_user)?,
        supplemental_groups: groups(pod)?,
        read_only_root: own.read_only_root_filesystem == Some(true),
        privileged: own.privileged == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        resources: Resources {
            pids_limit: prepared.pids_limit.map(i64::from),
            ..resources(pod, container.resources.as_ref(), facts.node_memory_bytes)
        },
        log_limit: LogLimit::default(),
        log_path: prepared.log_path,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        annotations: BTreeMap::new(),
        env,
    };
    Ok((spec, parts))
}

type Parts = Vec<(PathBuf, PathBuf)>;

fn mounts<'a>(
    pod: &Pod,
    container: &Container,
    prepared: &FilesAndMounts,
    lookup: impl Fn(&str) -> Option<&'a str> + Copy,
) -> Result<(Vec<Mount>, Parts), ContainerError> {
    let own: Vec<&VolumeMount> = container.volume_mounts.iter().flatten().collect();
    let taken = |target: &Path| own.iter().any(|mount| Path::new(&mount.mount_path) == target);
    let mut mounts: Vec<Mount> = prepared.files.iter().filter(|file| !taken(&file.target)).cloned().collect();
    let mut parts = Vec::new();
    for mount in own {
        let root = prepared.volumes.get(&mount.name).ok_or_else(|| ContainerError::Volume(mount.name.clone()))?;
        let inside = sub_path(mount, lookup)?;
        parts.extend(inside.iter().map(|inside| (root.clone(), inside.clone())));
        let target = Path::new("/").join(&mount.mount_path);
        let read_only = mount.read_only == Some(true) || volumes::is_read_only(pod, &mount.name);
        mounts.push(Mount { source: root.clone(), inside, target, read_only });
    }
    Ok((mounts, parts))
}

fn sub_path<'a>(
    mount: &VolumeMount,
    lookup: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<PathBuf>, ContainerError> {
    let plain = mount.sub_path.clone().filter(|path| !path.is_empty());
    let expression = mount.sub_path_expr.as_ref().filter(|path| !path.is_empty()).map(|text| expand(text, lookup));
    let Some(path) = plain.or(expression).map(PathBuf::from) else { return Ok(None) };
    let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside { Ok(Some(path)) } else { Err(ContainerError::SubPath(path.display().to_string())) }
}

fn user(
    pod: &Pod,
    container: &Container,
    own: &SecurityContext,
    image: &str,
) -> Result<Option<String>, ContainerError> {
    let shared = spec::spec(pod).security_context.as_ref();
    let user = own.run_as_user.or(shared.and_then(|context| context.run_as_user));
    let group = own.run_as_group.or(shared.and_then(|context| context.run_as_group));
    if own.run_as_non_root.or(shared.and_then(|context| context.run_as_non_root)) == Some(true) {
        match user {
            Some(0) => {
                let (pod, container) = (PodKey::of(pod).long(), container.name.clone());
                return Err(ContainerError::RunAsRoot { pod, container });
            }
            Some(_) => {}
            None => not_root(image, PodKey::of(pod).long(), container.name.clone())?,
        }
    }
    let user = user.map(|id| numeric("runAsUser", id)).transpose()?;
    let group = group.map(|id| numeric("runAsGroup", id)).transpose()?;
    Ok(match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        // The image's user, without whom it is root.
        (None, Some(group)) => {
            let user = image.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            Some(format!("{user}:{group}"))
        }
        (None, None) => None,
    })
}

fn not_root(image: &str, pod: String, container: String) -> Result<(), ContainerError> {
    let user = image.split(':').next().unwrap_or("");
    match user.parse::<u32>() {
        Ok(0) => Err(ContainerError::ImageIsRoot { pod, container }),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() || user == "root" => Err(ContainerError::ImageIsRoot { pod, container }),
        Err(_) => Err(ContainerError::NamedUser { user: user.to_owned(), pod, container }),
    }
}

fn groups(pod: &Pod) -> Result<Vec<u32>, ContainerError> {
    let Some(context) = &spec::spec(pod).security_context else { return Ok(Vec::new()) };
    let groups = context.supplemental_groups.iter().flatten().copied().chain(context.fs_group);
    groups.map(|id| numeric("supplementalGroups", id)).collect()
}

fn numeric(field: &'static str, value: i64) -> Result<u32, ContainerError> {
    u32::try_from(value).map_err(|_| ContainerError::Id { field, value })
}

/// CPU requests become shares (1024 a core, at least 2), limits a quota in 100 ms periods (at least 1 ms).
fn resources(pod: &Pod, requirements: Option<&ResourceRequirements>, node_memory: u64) -> Resources {
    const PERIOD_US: u64 = 100_000;
    let limit = |name: &str| requirements?.limits.as_ref()?.get(name);
    let request = |name: &str| requirements?.requests.as_ref()?.get(name);
    let cpu_limit = limit("cpu").and_then(|q| quantity::millis(&q.0)).filter(|millis| *millis > 0);
    let cpu_request = request("cpu").or(limit("cpu")).and_then(|q| quantity::millis(&q.0));
    let quota = cpu_limit.map(|millis| (millis.saturating_mul(PERIOD_US) / 1000).max(1000));
    Resources {
        cpu_shares: cpu_request.map(|millis| (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)),
        cpu_quota_us: quota.and_then(|quota| i64::try_from(quota).ok()),
        cpu_period_us: quota.map(|_| PERIOD_US),
        pids_limit: None,
        memory_limit_bytes: limit("memory").and_then(|q| quantity::units(&q.0)).and_then(|b| i64::try_from(b).ok()),
        oom_score_adj: Some(oom_score(pod, request("memory").and_then(|q| quantity::units(&q.0)), node_memory)),
    }
}

/// As kubelet scores: who promised the least memory goes first.
fn oom_score(pod: &Pod, request: Option<u64>, node_memory: u64) -> i32 {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("Burstable") => {
            let share = request.unwrap_or(0).saturating_mul(1000) / node_memory.max(1);
            i32::try_from(1000 - share.min(1000)).unwrap_or(1000).clamp(3, 999)
        }
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(pod: serde_json::Value) -> Result<(ContainerSpec, Parts), ContainerError> {
        let pod = crate::pod::spec::testing::pod(pod);
        let prepared = FilesAndMounts {
            volumes: [("data".to_owned(), PathBuf::from("/state/data"))].into(),
            files: vec![Mount { source: "/state/hosts".into(), target: "/etc/hosts".into(), ..Mount::default() }],
            pids_limit: Some(9),
            log_path: "/log".into(),
            image_user: "nobody:x".into(),
        };
        let facts = Facts {
            node_name: "n",
            node_ips: &[],
            pod_ips: &[],
            services: &[],
            node_cpu_millis: 1,
            node_memory_bytes: 1,
        };
        build(&pod, &spec::spec(&pod).containers[0], 3, prepared, &Sources::default(), &facts)
    }

    #[test]
    fn commands_expand_and_limits_and_identity_translate() {
        let (spec, _) = run(json!({
            "securityContext": {"runAsUser": 1000, "supplementalGroups": [7], "fsGroup": 8},
            "containers": [{"name": "m", "image": "img", "command": ["/bin/$(A)"], "args": ["$(A)", "$$(A)"],
                "env": [{"name": "A", "value": "x"}],
                "securityContext": {"runAsGroup": 5, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]}))
        .unwrap();
        assert_eq!((spec.command, spec.args), (vec!["/bin/x".to_owned()], vec!["x".to_owned(), "$(A)".to_owned()]));
        assert_eq!(spec.user.as_deref(), Some("1000:5"));
        assert_eq!(spec.supplemental_groups, [7, 8]);
        assert!(spec.no_new_privileges && spec.read_only_root && !spec.privileged);
        assert_eq!(spec.resources.cpu_quota_us, Some(50_000));
        assert_eq!(spec.resources.cpu_shares, Some(512));
        assert_eq!(spec.resources.memory_limit_bytes, Some(64 << 20));
        assert_eq!(spec.resources.pids_limit, Some(9));
        assert_eq!(spec.attempt, 3);
    }

    #[test]
    fn own_mounts_replace_the_managed_files_and_sub_paths_stay_inside() {
        let (spec, parts) = run(json!({"containers": [{"name": "m", "volumeMounts": [
            {"name": "data", "mountPath": "/etc/hosts", "subPath": "a/hosts", "readOnly": true}]}]}))
        .unwrap();
        let (source, inside) = ("/state/data".into(), Some("a/hosts".into()));
        let expected = Mount { source, inside, target: "/etc/hosts".into(), read_only: true };
        assert_eq!(spec.mounts, [expected]);
        assert_eq!(parts, [(PathBuf::from("/state/data"), PathBuf::from("a/hosts"))]);
        for bad in ["../x", "/abs", "a/../../b"] {
            let mounts = json!([{"name": "data", "mountPath": "/d", "subPath": bad}]);
            let error = run(json!({"containers": [{"name": "m", "volumeMounts": mounts}]})).unwrap_err();
            assert_eq!(error, ContainerError::SubPath(bad.into()));
        }
        let mounts = json!([{"name": "none", "mountPath": "/d"}]);
        let error = run(json!({"containers": [{"name": "m", "volumeMounts": mounts}]})).unwrap_err();
        assert_eq!(error, ContainerError::Volume("none".into()));
    }

    #[test]
    fn what_the_node_writes_is_mounted_to_be_read_only() {
        for (kind, expected) in [
            (json!({"configMap": {"name": "c"}}), true),
            (json!({"secret": {"secretName": "s"}}), true),
            (json!({"downwardAPI": {}}), true),
            (json!({"projected": {"sources": []}}), true),
            (json!({"emptyDir": {}}), false),
            (json!({"hostPath": {"path": "/srv"}}), false),
        ] {
            let mut volume = kind.clone();
            volume["name"] = json!("data");
            let mounts =
                json!([{"name": "data", "mountPath": "/d"}, {"name": "data", "mountPath": "/e", "subPath": "x"}]);
            let pod = json!({"volumes": [volume], "containers": [{"name": "m", "volumeMounts": mounts}]});
            let (spec, _) = run(pod).unwrap();
            let own: Vec<bool> = spec.mounts[1..].iter().map(|mount| mount.read_only).collect();
            assert_eq!(own, [expected, expected], "{kind}");
        }
    }

    #[test]
    fn a_group_alone_leaves_the_image_its_user() {
        let (spec, _) = run(json!({"containers": [{"name": "m", "securityContext": {"runAsGroup": 3000}}]})).unwrap();
        assert_eq!(spec.user.as_deref(), Some("nobody:3000"));
        let pod = crate::pod::spec::testing::pod(json!({"containers": [{"name": "m"}]}));
        let context = SecurityContext { run_as_group: Some(3000), ..SecurityContext::default() };
        let of = |image: &str| user(&pod, &spec::spec(&pod).containers[0], &context, image).unwrap().unwrap();
        assert_eq!([of(""), of("1000"), of("1000:7")], ["0:3000", "1000:3000", "1000:3000"]);
    }

    #[test]
    fn run_as_non_root_is_kept_or_refused() {
        let with = |context: serde_json::Value| run(json!({"containers": [{"name": "m", "securityContext": context}]}));
        let said = |context| with(context).unwrap_err().to_string();
        let place = "(pod: \"web_default(u1)\", container: m)";
        let root = format!("container's runAsUser breaks non-root policy {place}");
        assert_eq!(said(json!({"runAsNonRoot": true, "runAsUser": 0})), root);
        let named =
            "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root";
        assert_eq!(said(json!({"runAsNonRoot": true})), format!("{named} {place}"));
        let image = |user: &str| not_root(user, "p".into(), "m".into());
        let root = ContainerError::ImageIsRoot { pod: "p".into(), container: "m".into() };
        assert_eq!(image(""), Err(root.clone()));
        assert_eq!(image("0:0"), Err(root));
        assert_eq!(image("65534:65534"), Ok(()));
        assert!(with(json!({"runAsNonRoot": true, "runAsUser": 1})).is_ok());
        assert!(with(json!({"runAsUser": -1})).is_err());
    }
}
