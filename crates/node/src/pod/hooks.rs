//! Lifecycle hooks and stop signals.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use pod_runtime::{ContainerId, PodRuntime, signal};

use crate::probe::{Outcome, Target, run};

/// A hook that failed, with what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    #[error("{0}")]
    Failed(String),
    #[error("the hook took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the hook's port is none of the container's")]
    Port,
    #[error("tcpSocket hooks are not supported (the API has deprecated them)")]
    TcpSocket,
}

/// Runs a hook to its end, or to the limit.
pub async fn hook(
    runtime: &dyn PodRuntime,
    id: &ContainerId,
    container: &Container,
    handler: &LifecycleHandler,
    pod_ip: Option<IpAddr>,
    limit: Duration,
) -> Result<(), HookError> {
    let target = if let Some(action) = &handler.exec {
        Target::exec(action)
    } else if let Some(action) = &handler.http_get {
        Target::http(action, container, pod_ip).ok_or(HookError::Port)?
    } else if let Some(action) = &handler.sleep {
        let pause = Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0));
        return tokio::time::timeout(limit, tokio::time::sleep(pause)).await.map_err(|_| HookError::TimedOut(limit));
    } else if handler.tcp_socket.is_some() {
        return Err(HookError::TcpSocket);
    } else {
        return Ok(());
    };
    match tokio::time::timeout(limit, run(runtime, id, &target, limit)).await {
        Ok(Outcome::Good | Outcome::Warned(_)) => Ok(()),
        Ok(Outcome::Bad(message) | Outcome::Error(message)) => Err(HookError::Failed(message)),
        Err(_) => Err(HookError::TimedOut(limit)),
    }
}

/// The signal with which a container that runs `image` is stopped: its own, else its image's, else SIGTERM.
pub async fn stop_signal(runtime: &dyn PodRuntime, container: &Container, image: &str) -> i32 {
    let image = runtime.image(image).await.ok().flatten().map(|image| image.stop_signal);
    first_signal(container, image)
}

fn first_signal(container: &Container, image: Option<i32>) -> i32 {
    let own = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    own.and_then(signal::number).or(image).unwrap_or(15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn signals_by_name_image_and_default() {
        let container = |signal: Option<&str>| -> Container {
            serde_json::from_value(json!({"name": "m", "lifecycle": {"stopSignal": signal}})).unwrap()
        };
        let table = [
            (Some("SIGTERM"), None, 15),
            (Some("SIGUSR1"), Some(3), 10),
            (Some("SIGRTMIN+3"), None, 37),
            (Some("SIGRTMAX-1"), None, 63),
            (Some("SIGRTMIN"), None, 34),
            (None, Some(3), 3),
            (None, None, 15),
            (Some("nonsense"), Some(2), 2),
        ];
        for (own, image, expected) in table {
            assert_eq!(first_signal(&container(own), image), expected, "{own:?} {image:?}");
        }
    }
}
