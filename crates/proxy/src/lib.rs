//! The Service proxy's machinery: watches the API into `service-model`, and keeps a [`Backend`] per IP family in step with
//! the ForwardingTable that comes out. Not responsible for Service semantics (`service-model`) nor for how a mode forwards
//! packets (`proxy-*`).

pub mod backend;
pub mod battery;
pub mod config;
mod counted;
mod dump;
mod flows;
mod forwarding;
mod health;
mod health_check_ports;
mod intake;
mod loopback;
pub mod metrics;
mod mode;
mod notices;
mod run;
mod servers;
mod status;
mod switch;
mod syncer;
mod tally;
pub mod tuning;
mod watch;

pub use backend::{Backend, Packets, Plan, RULES, Refusal, RefusalReason, Retired, Seen, Size};
pub use config::{Config, FollowedAddresses};
pub use dump::{Dump, FamilyDump, FrontendDump, PortDump};
pub use health::ListenError;
pub use mode::{Backends, Difference, Mode, ModeError, ModeStep, Rules, Wanted};
pub use notices::Notice;
pub use run::{EMULATED, Order, RunError, Setup, dump, preview, run, serve};
pub use status::{Applied, Progress, Status};
pub use switch::SwitchError;
pub use syncer::{Complaint, Shared, State, Syncer};
