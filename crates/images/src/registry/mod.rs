//! Images from registries, by the OCI distribution specification and Docker's token authentication.
//!
//! Not responsible for pushing, nor for what Kubernetes says about a pull.

mod challenge;
mod credential;
mod credential_helper;
mod download;
mod endpoint;
mod error;
mod keys;
mod proxy;
mod pull;
mod puller;
mod service;
mod session;
mod transport;
mod trust;

pub use credential::KeyringError;
pub use credential_helper::HelperError;
pub use endpoint::{Mirror, MirrorError};
pub use error::PullError;
pub use keys::PullSecret;
pub use puller::{PullSettings, Puller, UnderWay};
pub use service::{RemotePullError, RemotePuller, serve};
pub use transport::TransportError;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod reach_tests;
