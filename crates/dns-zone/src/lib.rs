//! The cluster's DNS zone as values: wire codec, names, and the answer to each question (Kubernetes DNS-based service
//! discovery, schema 1.1.0). Pure: no sockets, no clock, no randomness.
//!
//! Not responsible for asking other servers, caching their answers, or watching the API.

mod answer;
mod config;
mod message;
mod name;
mod objects;
mod records;
pub mod relay;
mod transfer;
mod view;
pub mod wire;

pub use answer::{Answer, answer};
pub use config::{Config, ConfigError, Fallthrough, Pods};
pub use message::{Edns, Query, QueryError, Rcode, Response, RrType, UDP_MAX};
pub use name::Name;
pub use objects::{
    Endpoint, EndpointPort, EndpointSlice, Metadata, Namespace, Object, ObjectKey, Pod, PodStatus, Service,
    ServiceImport, ServiceImportSpec, ServiceSpec,
};
pub use records::{Data, Record};
pub use transfer::{Transfer, transfer};
pub use view::View;
