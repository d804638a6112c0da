//! The battery on the real kernel, each case in a node of its own: this program is at once the test, the node's init,
//! the agent, the shims and what runs in the containers (as the built-in image's executable).
//!
//! Needs root (CAP_SYS_ADMIN) and cgroups; fails without.

// All of it is test code.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "battery/acts.rs"]
mod acts;
#[path = "battery/cases.rs"]
mod cases;
#[path = "battery/node.rs"]
mod node;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = shim::dispatch(args.clone()) {
        return code;
    }
    let args: Vec<String> = args.into_iter().filter_map(|arg| arg.into_string().ok()).collect();
    if args[0].ends_with("testserver") {
        return acts::act(&args[1..]);
    }
    match args.get(1).map(String::as_str) {
        Some("agent") => cases::run_agent(&args[2], args[3].as_ref()),
        _ => node::run_all(&args[1..]),
    }
}
