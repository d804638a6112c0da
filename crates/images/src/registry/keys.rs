//! Everything that credentials are looked for in, for one pull: the pod's secrets first, then this machine's Docker
//! configuration.
//!
//! Not responsible for which secrets a pod has.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::credential::{Credential, Keyring};
use super::credential_helper;
use super::error::PullError;
use crate::reference::Reference;

/// A Secret's document of credentials.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSecret {
    /// Of the Secret, for errors.
    pub name: String,
    /// Of type `kubernetes.io/dockercfg`, not `kubernetes.io/dockerconfigjson`.
    pub legacy: bool,
    pub document: String,
}

pub(crate) struct Keys(Vec<Keyring>);

/// Its content appears in no log.
impl std::fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads everything anew: files change. A file that isn't there is none.
    pub(crate) fn collect(secrets: &[PullSecret], files: &[PathBuf]) -> Result<Self, PullError> {
        let mut keyrings = Vec::new();
        for secret in secrets {
            let document = secret.document.as_bytes();
            // Its entries alone, as kubelet does: a Secret must not run this machine's programs.
            let parsed = if secret.legacy { Keyring::from_legacy(document) } else { Keyring::from_secret(document) };
            keyrings.push(parsed.map_err(|source| PullError::Secret { name: secret.name.clone(), source })?);
        }
        for path in files {
            match fs::read(path) {
                Ok(document) => {
                    let parsed = Keyring::from_config(&document);
                    keyrings.push(parsed.map_err(|source| PullError::DockerConfig { path: path.clone(), source })?);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(source) => return Err(PullError::File { step: "read", path: path.clone(), source }),
            }
        }
        Ok(Self(keyrings))
    }

    /// What to try, one after the other; nothing is to ask without any.
    pub(crate) async fn of(&self, reference: &Reference) -> Result<Vec<Credential>, PullError> {
        let mut found = Vec::new();
        for keyring in &self.0 {
            found.extend(keyring.lookup(reference));
            if let Some((program, registry)) = keyring.helper(reference) {
                found.extend(credential_helper::ask(&program, &registry).await?);
            }
        }
        Ok(found)
    }
}
