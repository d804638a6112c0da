//! Startup, readiness and liveness probes: thresholds as a pure tracker, and the requests themselves.
//!
//! Not responsible for when a pod counts as ready (`pod::status`) nor for restarting (`pod::plan`).

mod grpc;
mod place;
mod request;
mod tracker;

pub use request::{Outcome, Target, run};
pub use tracker::{Kind, Rules, Tracker, Verdict};
