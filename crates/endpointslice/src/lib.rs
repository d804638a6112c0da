//! Which EndpointSlices (and legacy Endpoints) a Service should have, as plans over values.
//!
//! Pure: no clock, no API, no randomness; equal inputs give equal plans in equal order. Not responsible for writing a
//! plan, or for what a proxy makes of the slices (crate `service-model`).

pub mod hints;
pub mod labels;
pub mod legacy;
pub mod mirror;
mod pack;
pub mod plan;
mod pods;
mod ports;
pub mod service;
mod subsets;
pub mod topology;
pub mod trigger;

use std::fmt;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;

pub use hints::HintsDisabled;
pub use plan::plan;
pub use topology::Topology;
pub use trigger::TriggerTimes;

/// What a plan may depend on beyond the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Endpoints per slice (kube-controller-manager's `--max-endpoints-per-slice`, at most 1000).
    pub max_endpoints: usize,
    /// When the oldest change that this plan answers happened.
    pub trigger: Option<Timestamp>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_endpoints: 100, trigger: None }
    }
}

/// The writes that bring a Service's slices in step, in the order in which they should be made: creates, updates,
/// deletes, so that no endpoint is ever missing in between (readers must expect duplicates instead).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlicePlan {
    /// New slices, named by `generateName`.
    pub create: Vec<EndpointSlice>,
    /// Whole objects with the resourceVersion they are based on.
    pub update: Vec<EndpointSlice>,
    /// Slices as they are now.
    pub delete: Vec<EndpointSlice>,
    /// What the Service's owner should be told.
    pub notices: Vec<Notice>,
    /// Nodes that pods name and that are not known yet: the plan leaves those pods out and must be made again.
    pub unknown_nodes: Vec<String>,
}

impl SlicePlan {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// The slice's endpoints; an absent list is an empty one.
pub fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

impl fmt::Display for SlicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs = [("create", &self.create), ("update", &self.update), ("delete", &self.delete)];
        for (verb, slices) in verbs {
            for slice in slices {
                let metadata = &slice.metadata;
                let name = metadata.name.as_ref().or(metadata.generate_name.as_ref()).map_or("", String::as_str);
                writeln!(f, "{verb} {name} {} endpoints={}", slice.address_type, endpoints_of(slice).len())?;
            }
        }
        Ok(())
    }
}

/// Something about a Service that is not as its owner probably meant it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    PortNotFound { pod: String, port: String, protocol: String },
    HintsDisabled(HintsDisabled),
    InvalidAddress { address: String },
    TooManyAddresses { dropped: usize },
}

impl Notice {
    /// The Event's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PortNotFound { .. } => "PortNotFound",
            Self::HintsDisabled(_) => "TopologyAwareHintsDisabled",
            Self::InvalidAddress { .. } => "InvalidIPAddress",
            Self::TooManyAddresses { .. } => "TooManyAddressesToMirror",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortNotFound { pod, port, protocol } => {
                write!(
                    f,
                    "port name {port:?} ({protocol}) not found in pod {pod}: no container port has that name and protocol"
                )
            }
            Self::HintsDisabled(reason) => write!(f, "{reason}"),
            Self::InvalidAddress { address } => write!(f, "skipped {address:?} in Endpoints: not a valid IP address"),
            Self::TooManyAddresses { dropped } => {
                write!(f, "skipped {dropped} addresses: a subset mirrors at most {} of them", mirror::MAX_PER_SUBSET)
            }
        }
    }
}

#[cfg(test)]
mod tests;
