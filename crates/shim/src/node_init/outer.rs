//! The part of a node's init that stays in the host's namespaces.
//!
//! Not responsible for anything inside the node.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, Pid, fork, setsid};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use super::{NodeInitConfig, NodeInitError, NodeReady, at, exit_code, inner, step};
use crate::cgroup;
use crate::process::Ended;

/// What the inner process says when the namespaces are made; anything else is an error message.
pub(super) const READY: &[u8] = b"ready";

pub(crate) fn run(config: &Path, keep: Option<&Path>) -> ExitCode {
    match make_node(config, keep) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("node: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make_node(path: &Path, keep: Option<&Path>) -> Result<ExitCode, NodeInitError> {
    let _kept = keep.map(|path| File::open(path).map_err(at("open", path))).transpose()?;
    let config: NodeInitConfig = std::fs::read(path)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .map_err(|source| NodeInitError::Config { path: path.to_owned(), source })?;
    // A terminal's Ctrl-C is the supervisor's to understand. Fails only for a process group's leader, which is fine.
    let _ = setsid();
    block_signals().map_err(step("block signals"))?;
    let (ready_reader, ready_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
    let (outer_life, outer_keeps) = pipe_with(PipeFlags::CLOEXEC).map_err(step("make a pipe"))?;
    // SAFETY: this process has one thread; a new pid namespace is only for its children.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .map_err(step("make a pid namespace (needs CAP_SYS_ADMIN)"))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(step("fork"))? {
        ForkResult::Child => {
            drop((ready_reader, outer_keeps));
            let code = inner::run(&config, ready_writer, outer_life);
            // PID 1's end is what ends every process of the node; no destructor has anything to add.
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            drop((ready_writer, outer_life));
            let code = watch(child, ready_reader);
            drop(outer_keeps);
            if let Some(group) = &config.cgroup {
                remove_group(group);
            }
            Ok(code)
        }
    }
}

/// The node's group, and those above it that hold nothing else.
fn remove_group(group: &Path) {
    if let Err(error) = cgroup::remove_tree(group) {
        eprintln!("node: remove the control group {}: {error}", group.display());
    }
    for parent in group.ancestors().skip(1) {
        cgroup::remove_if_empty(parent);
    }
}

/// Blocked signals wait to be asked for, also by a PID 1, which would never get them otherwise.
fn block_signals() -> nix::Result<()> {
    signals().thread_block()
}

pub(super) fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set
}

/// Reports the node, then waits for its end.
fn watch(inner: Pid, ready: OwnedFd) -> ExitCode {
    let mut said = Vec::new();
    let _ = File::from(ready).read_to_end(&mut said);
    if said == READY {
        let mut line = serde_json::to_vec(&NodeReady { pid: inner.as_raw() }).unwrap_or_default();
        line.push(b'\n');
        let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    } else {
        eprintln!("node: {}", String::from_utf8_lossy(&said));
    }
    let signals = signals();
    loop {
        let child = rustix::process::Pid::from_raw(inner.as_raw());
        match waitpid(child, WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return exit_code(Ended::from(status).code),
            Ok(None) => {}
            Err(_) => return ExitCode::FAILURE,
        }
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => {
                let _ = nix::sys::signal::kill(inner, Signal::SIGTERM);
            }
            Ok(_) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}
