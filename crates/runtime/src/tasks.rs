//! Tasks that belong to somebody: they stop when their owner says so, and one that ends early takes the rest with it
//! instead of leaving a component half alive. Not responsible for restarting anything.

use std::future::Future;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// A set of tasks under one cancellation token. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<String>,
    token: CancellationToken,
}

/// Why a set of tasks ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("task {0} ended although nobody stopped it")]
    EndedEarly(String),
    #[error("a task panicked")]
    Panicked(#[source] JoinError),
}

impl Tasks {
    /// Tasks that stop with `parent`, or on `stop`.
    pub fn new(parent: &CancellationToken) -> Self {
        Self { set: JoinSet::new(), token: parent.child_token() }
    }

    /// The token that tasks must listen to.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `task`, which must return once the token is cancelled, and not before.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        self.set.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until the token is cancelled and every task has ended.
    pub async fn join(mut self) -> Result<(), TaskError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.set.join_next().await {
            let error = match ended {
                Ok(_) if self.token.is_cancelled() => continue,
                Ok(name) => TaskError::EndedEarly(name),
                Err(error) => TaskError::Panicked(error),
            };
            tracing::error!(%error, "stopping the remaining tasks");
            self.token.cancel();
            if outcome.is_ok() {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Cancels and waits.
    pub async fn stop(self) -> Result<(), TaskError> {
        self.token.cancel();
        self.join().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_early_end_stops_the_rest_and_is_named() {
        let mut tasks = Tasks::new(&CancellationToken::new());
        let token = tasks.token();
        tasks.spawn("patient", async move { token.cancelled().await });
        tasks.spawn("hasty", async {});
        assert!(matches!(tasks.join().await, Err(TaskError::EndedEarly(name)) if name == "hasty"));
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_stop_is_clean() {
        let mut tasks = Tasks::new(&CancellationToken::new());
        tasks.spawn("broken", async { panic!("by design of the test") });
        assert!(matches!(tasks.join().await, Err(TaskError::Panicked(_))));

        let mut tasks = Tasks::new(&CancellationToken::new());
        let token = tasks.token();
        tasks.spawn("patient", async move { token.cancelled().await });
        assert!(tasks.stop().await.is_ok());
    }
}
