//! A container's image by its pull policy, with kubelet's Events and failures.
//!
//! Not responsible for when a failed pull is tried again (`memory`) nor for pulling (the runtime).

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::Api;
use pod_runtime::{ImageStatus, PullSecret, RuntimeError};

use super::launch::{Failed, Launch};
use super::memory::FailureKind;
use super::spec;

/// Images under this registry are part of the program: there is nothing to pull them from.
const BUILT_IN: &str = "portolan.local/";

/// Finds the image on the node, or has it pulled.
pub async fn get(launch: &Launch) -> Result<ImageStatus, Failed> {
    let reference = launch.reference();
    let built_in = reference.starts_with(BUILT_IN);
    let local = launch.shared.runtime.image(reference).await.map_err(|error| match error {
        RuntimeError::InvalidImageName { .. } => {
            let message = format!("Failed to apply default image tag {reference:?}: {error}");
            launch.failed(FailureKind::InvalidImageName, &message)
        }
        error => launch.failed(FailureKind::ImageInspect, &format!("Failed to inspect image {reference:?}: {error}")),
    })?;
    match (local, policy(launch)) {
        (Some(image), policy) if built_in || policy != "Always" => {
            launch.event(false, "Pulled", format!("Container image {reference:?} already present on machine"));
            Ok(image)
        }
        (None, "Never") => {
            let message = format!(
                "Container image {reference:?} is not present with pull policy of Never: load it with `portolan image \
                 load FILE`"
            );
            if launch.may_pull {
                launch.event(true, "ErrImageNeverPull", message.clone());
                launch.event(true, "Failed", format!("Error: {}", FailureKind::ImageNeverPull.reason()));
            }
            Err(launch.failed(FailureKind::ImageNeverPull, &message))
        }
        (local, _) if !launch.may_pull => {
            let message = match local {
                Some(_) => format!("image {reference:?} waits to be pulled: imagePullPolicy is Always"),
                None => format!("image {reference:?} is not on this node"),
            };
            Err(launch.failed(FailureKind::ImagePull, &message))
        }
        (local, _) => pull(launch, reference, local.is_some()).await,
    }
}

async fn pull(launch: &Launch, reference: &str, loaded: bool) -> Result<ImageStatus, Failed> {
    let secrets = secrets(launch).await.map_err(|error| {
        let message = format!("cannot read the pod's image pull secrets: {error}");
        launch.failed(FailureKind::ImagePull, &message)
    })?;
    launch.event(false, "Pulling", format!("Pulling image {reference:?}"));
    let waiting = Instant::now();
    let pulled = tokio::select! {
        () = launch.ending.cancelled() => return Err(launch.failed(FailureKind::ImagePull, "the pod ends")),
        pulled = async {
            let _turn = launch.shared.pulls.acquire().await;
            let begun = Instant::now();
            (launch.shared.runtime.pull(reference, &secrets).await, begun.elapsed())
        } => pulled,
    };
    let error = match pulled {
        (Ok(image), took) => {
            let (took, whole, size) = (go_duration(took), go_duration(waiting.elapsed()), image.size_bytes);
            let message = format!(
                "Successfully pulled image {reference:?} in {took} ({whole} including waiting). Image size: {size} bytes."
            );
            launch.event(false, "Pulled", message);
            return Ok(image);
        }
        (Err(RuntimeError::Pull { message, .. }), _) => message,
        (Err(error), _) => error.to_string(),
    };
    let advice = if loaded {
        "the image is loaded on this node, but imagePullPolicy is Always: set it to IfNotPresent"
    } else {
        "without its registry, load it with `portolan image load FILE` and set imagePullPolicy to IfNotPresent"
    };
    launch.event(true, "Failed", format!("Failed to pull image {reference:?}: {error} ({advice})"));
    launch.event(true, "Failed", format!("Error: {}", FailureKind::ImagePull.reason()));
    let message = format!("failed to pull image {reference:?}: {error} ({advice})");
    Err(launch.failed(FailureKind::ImagePull, &message))
}

/// The pod's own, or else its account's. One that is missing, or of another type, is told and done without.
async fn secrets(launch: &Launch) -> Result<Vec<PullSecret>, kube::Error> {
    let namespace = launch.pod.metadata.namespace.as_deref().unwrap_or("default");
    let spec = spec::spec(&launch.pod);
    let own = spec.image_pull_secrets.clone().filter(|list| !list.is_empty());
    let list = match (own, &spec.service_account_name) {
        (Some(list), _) => list,
        (None, Some(name)) => {
            let api: Api<ServiceAccount> = Api::namespaced(launch.shared.client.clone(), namespace);
            api.get_opt(name).await?.and_then(|account| account.image_pull_secrets).unwrap_or_default()
        }
        (None, None) => Vec::new(),
    };
    let api: Api<Secret> = Api::namespaced(launch.shared.client.clone(), namespace);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for reference in list.into_iter().filter(|reference| !reference.name.is_empty()) {
        match api.get_opt(&reference.name).await?.and_then(|secret| document(&reference.name, secret)) {
            Some(secret) => found.push(secret),
            None => missing.push(reference.name),
        }
    }
    if !missing.is_empty() {
        let names = missing.join(", ");
        let message = format!(
            "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
        );
        launch.event(true, "FailedToRetrieveImagePullSecret", message);
    }
    Ok(found)
}

/// None when the Secret is of no type that holds registries' credentials.
fn document(name: &str, secret: Secret) -> Option<PullSecret> {
    let (key, legacy) = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => (".dockerconfigjson", false),
        Some("kubernetes.io/dockercfg") => (".dockercfg", true),
        _ => return None,
    };
    let document = String::from_utf8(secret.data?.remove(key)?.0).ok()?;
    Some(PullSecret { name: name.to_owned(), legacy, document })
}

fn policy(launch: &Launch) -> &str {
    match launch.container.image_pull_policy.as_deref() {
        Some(policy) => policy,
        None if tag(launch.reference()).is_none_or(|tag| tag == "latest") => "Always",
        None => "IfNotPresent",
    }
}

/// The tag of an image reference; a digest counts as one.
fn tag(reference: &str) -> Option<&str> {
    if let Some((_, digest)) = reference.split_once('@') {
        return Some(digest);
    }
    let name = reference.rsplit('/').next()?;
    name.split_once(':').map(|(_, tag)| tag)
}

/// Whole milliseconds as Go writes a duration: `0s`, `84ms`, `1.5s`, `2m3.004s`.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}").trim_end_matches('0').to_owned() };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}{fraction}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}{fraction}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_digests() {
        let table = [
            ("busybox", None),
            ("busybox:1.36", Some("1.36")),
            ("localhost:5000/app", None),
            ("localhost:5000/app:latest", Some("latest")),
            ("app@sha256:12", Some("sha256:12")),
        ];
        for (reference, expected) in table {
            assert_eq!(tag(reference), expected, "{reference}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        let table =
            [(0, "0s"), (84, "84ms"), (1_500, "1.5s"), (2_000, "2s"), (123_004, "2m3.004s"), (3_600_010, "1h0m0.01s")];
        for (millis, text) in table {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn secrets_of_both_types_are_read_and_others_are_not() {
        let secret = |kind: &str, key: &str| -> Secret {
            serde_json::from_value(serde_json::json!({"type": kind, "data": {key: "e30="}})).unwrap()
        };
        let read = |kind, key| document("s", secret(kind, key)).map(|found| (found.legacy, found.document));
        assert_eq!(read("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), Some((false, "{}".to_owned())));
        assert_eq!(read("kubernetes.io/dockercfg", ".dockercfg"), Some((true, "{}".to_owned())));
        assert_eq!(read("Opaque", ".dockerconfigjson"), None);
        assert_eq!(read("kubernetes.io/dockerconfigjson", "other"), None);
    }
}
