//! Services, EndpointSlices and a Node become one [`ForwardingTable`]: what a proxy has to make true on this node, for one
//! IP family, with every policy already turned into a result. [`ForwardingTable::lookup`] is the oracle that says what
//! happens to a packet; every backend's real behaviour is compared with it.
//!
//! This is the only place where traffic policies, readiness, topology hints, affinity, source ranges and
//! masquerading are decided. It is not responsible for watching the API nor for programming a kernel: no files, no
//! sockets, no clocks.

mod compact;
mod endpoints;
mod lookup;
mod model;
mod names;
mod node;
mod objects;
mod problem;
mod resolve;
mod table;

pub use compact::{EndpointAddress, Labels, Word};
pub use endpoints::{Candidate, TopologyMode};
pub use lookup::{Deny, Outcome, Packet, Source};
pub use model::{Change, Event, ObjectName, ServiceModel, ServiceView};
pub use names::{IpFamily, Port, Protocol, Revision, ServiceName, ServicePortName};
pub use node::{InterfaceMatch, LocalTraffic, NodePortAddresses, NodeView};
pub use objects::{
    ClientIpConfig, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForName, HEADLESS_LABEL,
    LoadBalancerIngress, LoadBalancerStatus, Meta, Node, NodeAddress, NodeSpec, NodeStatus, PROXY_NAME_LABEL,
    SERVICE_NAME_LABEL, Service, ServiceCidr, ServiceCidrSpec, ServicePortSpec, ServiceSpec, ServiceStatus,
    SessionAffinityConfig, SliceEndpoint, Taint, ZONE_LABEL,
};
pub use problem::{Problem, ProblemReason};
pub use table::{
    Affinity, Changes, Endpoint, EndpointSet, ForwardingTable, Frontend, FrontendKey, HealthCheck, Masquerade,
    MasqueradeRule, ServicePort, SourceRanges, Verdict,
};
