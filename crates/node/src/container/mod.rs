//! From a container of a Pod to what a runtime starts: environment, command, mounts, identity, limits.
//!
//! Pure: what must be asked of the API comes in as `Sources`, what is known of the pod and its node as `Facts`.

pub mod env;
pub mod expand;
pub mod fields;
pub mod quantity;
pub mod services;
mod spec;

pub use spec::{FilesAndMounts, build};

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};

/// The objects that a pod refers to by name; None is one that doesn't exist.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub secrets: BTreeMap<String, Option<Secret>>,
}

/// What the node knows about a pod beyond its object.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub node_name: &'a str,
    pub node_ips: &'a [IpAddr],
    pub pod_ips: &'a [IpAddr],
    pub services: &'a [std::sync::Arc<Service>],
    /// What a container without a limit is told it may use.
    pub node_cpu_millis: u64,
    pub node_memory_bytes: u64,
}
