//! What is wrong with an object, in a form an Event can carry. A problem never stops other Services.

use std::fmt;

use crate::names::{ServiceName, ServicePortName};
use crate::table::Frontend;

/// Something in a Service that cannot be served as written; the rest of it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub service: ServiceName,
    pub reason: ProblemReason,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemReason {
    /// A field holds something that is no IP address.
    BadAddress { field: &'static str, value: String },
    /// A field holds something that is no CIDR.
    BadCidr { field: &'static str, value: String },
    /// A field holds a number that is no port.
    BadPort { field: &'static str, value: i64 },
    /// A port's protocol is none of TCP, UDP, SCTP.
    BadProtocol { value: String },
    /// A field holds a word the API does not know.
    BadValue { field: &'static str, value: String },
    /// An EndpointSlice of the Service has an address that cannot be used.
    BadEndpoint { slice: String, value: String },
    /// Another Service port, earlier in name order, already owns this address and port.
    Shadowed { frontend: Frontend, by: ServicePortName },
}

impl ProblemReason {
    /// The Event's `reason`.
    pub fn code(&self) -> &'static str {
        match self {
            ProblemReason::BadAddress { .. } => "InvalidServiceAddress",
            ProblemReason::BadCidr { .. } => "InvalidSourceRange",
            ProblemReason::BadPort { .. } => "InvalidServicePort",
            ProblemReason::BadProtocol { .. } => "UnknownServiceProtocol",
            ProblemReason::BadValue { .. } => "UnknownServiceFieldValue",
            ProblemReason::BadEndpoint { .. } => "InvalidEndpointAddress",
            ProblemReason::Shadowed { .. } => "ServiceAddressConflict",
        }
    }
}

impl fmt::Display for ProblemReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProblemReason::BadAddress { field, value } => write!(f, "{field}: {value:?} is not an IP address"),
            ProblemReason::BadCidr { field, value } => write!(f, "{field}: {value:?} is not a CIDR"),
            ProblemReason::BadPort { field, value } => write!(f, "{field}: {value} is not a port number"),
            ProblemReason::BadProtocol { value } => write!(f, "spec.ports: protocol {value:?} is not supported"),
            ProblemReason::BadValue { field, value } => write!(f, "{field}: {value:?} is not supported"),
            ProblemReason::BadEndpoint { slice, value } => {
                write!(f, "EndpointSlice {slice}: address or port {value:?} cannot be used")
            }
            ProblemReason::Shadowed { frontend, by } => write!(f, "{frontend} already belongs to {by}"),
        }
    }
}
