//! What tests of whole systems share: a throw-away machine (a network namespace and a data directory) on which the
//! real `portolan` runs, its API, probes of its networks, real kubectls, and the proof that nothing is left of it.
//!
//! A step that fails ends the test with what was asked and what was answered, so nothing here returns an error. Not
//! responsible for what a system ought to do: the tests say that.

mod api;
mod kubectl;
mod network;
mod outside;
mod processes;
mod ran;
pub mod registry;
mod remains;
pub mod shell;
mod steady;
mod system;
mod temporary;
mod until;
mod web_proxy;

pub use api::{Api, Kind, ready};
pub use kubectl::Kubectl;
pub use network::{Net, Outcome};
pub use outside::Outside;
pub use processes::Process;
pub use ran::{Ran, Running, run};
pub use steady::Steady;
pub use system::System;
pub use temporary::Temporary;
pub use until::{eventually, patience, slowly};
pub use web_proxy::WebProxy;
