//! Why an image can't be pulled.
//!
//! Not responsible for the steps below HTTP (`TransportError`) and for the store (`ImageError`), which it carries.

use std::io;
use std::path::PathBuf;

use http::StatusCode;

use super::credential::KeyringError;
use super::credential_helper::HelperError;
use super::transport::TransportError;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::ReferenceError;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(
        "images of portolan.local are never pulled: portolan.local/testserver:latest is built in, others are loaded with \
         `portolan image load FILE`"
    )]
    Local,
    #[error("pull secret {name:?} is unusable: {source}")]
    Secret { name: String, source: KeyringError },
    #[error("{path} is unusable: {source}")]
    DockerConfig { path: PathBuf, source: KeyringError },
    #[error("cannot {step} {path}: {source}")]
    File { step: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("{reference}: not found ({url} answers 404)")]
    NotFound { reference: String, url: String },
    #[error(
        "pull access denied for {reference}, repository does not exist or may require authorization: {url} answers \
         {status}{said}; {shown}"
    )]
    Denied { reference: String, url: String, status: StatusCode, said: String, shown: &'static str },
    #[error("{url} answers {status}{said}")]
    Status { url: String, status: StatusCode, said: String },
    #[error("{url} wants an authentication that is neither Basic nor Bearer")]
    Challenge { url: String },
    #[error("the token service {realm} {problem}")]
    Token { realm: String, problem: &'static str },
    #[error("{url} leads on to {to:?}, which {problem}")]
    Redirect { url: String, to: String, problem: &'static str },
    #[error("{what} should have digest {expected} but has {actual}")]
    Mismatch { what: String, expected: Digest, actual: Digest },
    #[error("{what} should have {expected} bytes but has {actual}")]
    Length { what: String, expected: u64, actual: u64 },
    #[error("the registry sent less of {what} than it has")]
    Short { what: String },
    #[error("{what} has {actual} {unit}; more than {limit} are refused")]
    TooMuch { what: &'static str, actual: u64, unit: &'static str, limit: u64 },
    #[error("{what} is not what it should be: {source}")]
    Document { what: String, source: serde_json::Error },
    #[error("{reference} has no image for {wanted}; it has {others}")]
    NoPlatform { reference: String, wanted: String, others: String },
    #[error("{reference} is not a container image: {problem}")]
    NotAnImage { reference: String, problem: String },
    #[error(
        "the image's layers need {needed} bytes and {path} has {free} left: make room, or choose another --data-dir"
    )]
    NoRoom { path: PathBuf, needed: u64, free: u64 },
    #[error(transparent)]
    Store(#[from] ImageError),
    #[error("unpacking a layer panicked")]
    Panicked,
    /// The host's own answer, and how its mirrors failed before.
    #[error("{own} (before that, {mirrors})")]
    Mirrors { own: Box<PullError>, mirrors: String },
}

impl PullError {
    /// Whether other credentials might get further.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self, PullError::Denied { .. })
    }

    /// Whether the same may well succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            PullError::Transport(error) => {
                matches!(error, TransportError::Http { .. } | TransportError::TimedOut { .. })
            }
            PullError::Status { status, .. } => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(status)
            }
            PullError::Short { .. } => true,
            _ => false,
        }
    }
}
