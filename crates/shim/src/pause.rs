//! A process that does nothing but hold its namespaces and reap: PID 1 of a pod whose containers share one pid
//! namespace.
//!
//! Not responsible for making namespaces.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitOptions, wait};

pub(crate) fn run() -> ExitCode {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
            Ok(_) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}
