//! The Service proxy's machinery: watches the API into `service-model`, and keeps a [`Backend`] per IP family in step with
//! the ForwardingTable that comes out. Not responsible for Service semantics (`service-model`) nor for how a mode forwards
//! packets (`proxy-*`).

pub mod backend;
pub mod battery;
pub mod config;
mod flows;
mod health;
pub mod metrics;
mod run;
mod status;
mod syncer;
pub mod tuning;
mod watch;

pub use backend::{Backend, Plan, Refusal, RefusalReason};
pub use config::{Config, FollowedAddresses};
pub use health::ListenError;
pub use run::{RunError, preview, run};
pub use status::{Applied, Progress, Status};
pub use syncer::{Complaint, Shared, State, Syncer};
