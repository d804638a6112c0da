//! The ipvs mode: a virtual server for each address of a Service port, their addresses on the device `kube-ipvs0`, and one
//! nftables table per IP family with a fixed set of rules for what IPVS can't say: who is refused, who is masqueraded, who
//! is given another list of endpoints. `layout` is what the table looks like, `compile` what a Service port has, `plan` how
//! it gets there, `apply` the only part that touches the kernel. Not responsible for Service semantics: a ForwardingTable
//! already has all results.

mod apply;
mod compile;
mod layout;
mod object;
mod plan;
mod prepare;
mod retire;
mod state;
mod steps;

pub use apply::{BackendError, IpvsBackend};
pub use layout::{TABLE_NAME, table};
pub use object::ListMark;
pub use plan::{Desired, IpvsPlan};
pub use prepare::{Options, PrepareError, WhyNot, prepare, supported};
pub use state::Observed;
