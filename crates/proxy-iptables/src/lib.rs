//! The iptables mode: kube-proxy's chains under kube-proxy's names, so that what operators know of them still holds.
//! `layout` has the chains that are always there, `compile` those of a Service, `plan` finds what differs, `apply` is the
//! only part that runs a tool. Not responsible for Service semantics: a ForwardingTable already has all results.

mod apply;
mod compile;
mod layout;
mod names;
mod plan;
mod quarantine;
mod settings;
mod state;

pub use apply::{BackendError, FullLook, HINTS, IptablesBackend, Options};
pub use names::{REJECT as OURS_ALONE, is_ours};
pub use plan::{Desired, IptablesPlan};
pub use settings::Tuning;
pub use state::Observed;
