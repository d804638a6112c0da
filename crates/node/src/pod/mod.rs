//! One pod on this node: decisions as pure functions (`plan`, `status`), and the worker that carries them out.

pub mod memory;
pub mod observed;
pub mod plan;
pub mod spec;
pub mod status;
pub mod termination;
pub mod unsupported;
pub mod view;

mod actions;
mod hooks;
mod image;
mod launch;
mod shared;
mod volume_steps;
mod worker;

#[cfg(test)]
mod tests;

pub use hooks::stop_signal;
pub use launch::MANAGED_FILES;
pub use memory::NodeVerdict;
pub use shared::Shared;
pub use spec::PodKey;
pub use worker::{PodChange, Worker, WorkerHandle};
