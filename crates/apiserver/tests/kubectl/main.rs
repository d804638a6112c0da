//! The real kubectl against a server on loopback, over TLS, with the administrator's kubeconfig.

#![allow(clippy::unwrap_used)]

mod cluster;
mod verbs;
