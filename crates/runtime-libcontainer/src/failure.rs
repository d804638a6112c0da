//! Turning failures of steps into `RuntimeError`, and running blocking steps beside the async ones.
//!
//! Not responsible for what a container's own failure means.

use std::io;

use pod_runtime::RuntimeError;

pub(crate) fn io_at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Io { step, source: source.into() }
}

pub(crate) fn other_at<E: std::error::Error + Send + Sync + 'static>(
    step: &'static str,
) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Other { step, source: Box::new(source) }
}

/// Runs file-system and namespace work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    tokio::task::spawn_blocking(work).await.map_err(other_at(step))?
}

/// What a helper process said went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HelperFailure(pub(crate) String);
