//! Asking a Docker credential helper, `docker-credential-NAME get`, for what it has for a registry.
//!
//! Not responsible for which helper is meant (`credential`).

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::credential::Credential;

const PATIENCE: Duration = Duration::from_secs(20);
/// What helpers say when they have nothing, which is no failure.
const NOTHING: &str = "credentials not found";

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot run the credential helper docker-credential-{name}: {source}")]
    Run { name: String, source: io::Error },
    #[error("the credential helper docker-credential-{name} failed: {said}")]
    Failed { name: String, said: String },
    #[error("the credential helper docker-credential-{name} did not answer within {PATIENCE:?}")]
    TimedOut { name: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// None when the helper has nothing for this registry.
pub(crate) async fn ask(name: &str, registry: &str) -> Result<Option<Credential>, HelperError> {
    let named = || name.to_owned();
    if name.contains('/') {
        return Err(HelperError::Run { name: named(), source: io::ErrorKind::InvalidFilename.into() });
    }
    let run = async {
        let mut command = Command::new(format!("docker-credential-{name}"));
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(format!("{registry}\n").as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, run).await.map_err(|_| HelperError::TimedOut { name: named() })?;
    let output = output.map_err(|source| HelperError::Run { name: named(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        // They report on standard output.
        return if said.starts_with(NOTHING) { Ok(None) } else { Err(HelperError::Failed { name: named(), said }) };
    }
    match serde_json::from_slice::<Answer>(&output.stdout) {
        Ok(answer) => Ok(Some(Credential::of_helper(answer.username, answer.secret))),
        Err(_) => {
            Err(HelperError::Failed { name: named(), said: "its answer is not the JSON it should be".to_owned() })
        }
    }
}
