//! The cluster's DNS zone as values: wire codec, names, and the answer to each question (Kubernetes DNS-based service
//! discovery, schema 1.1.0). Pure: no sockets, no clock, no randomness.
//!
//! Not responsible for asking other servers, caching their answers, or watching the API.

mod answer;
mod message;
mod name;
mod objects;
mod records;
pub mod relay;
mod view;
pub mod wire;

pub use answer::{Answer, Config, answer};
pub use message::{Edns, Query, QueryError, Rcode, Response, RrType, UDP_MAX};
pub use name::Name;
pub use objects::{
    Endpoint, EndpointPort, EndpointSlice, Metadata, Namespace, Object, ObjectKey, Service, ServiceSpec,
};
pub use records::{Data, Record};
pub use view::View;
