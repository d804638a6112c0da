//! Runs one command in a running container, with this helper's own standard output and error, and records how it
//! ended. The helper's standard input is a lifeline: when it ends, nobody wants the command any more.
//!
//! Not responsible for collecting output: the runtime reads the streams it gave.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::executor::ReportingExecutor;
use crate::process::reap;
use crate::record::{self, ExecConfig, ExecResult};

pub(crate) fn run(container: &Path, exec: &Path) -> ExitCode {
    let result = match record::read::<ExecConfig>(&exec.join(record::EXEC_CONFIG)) {
        Ok(Some(config)) => execute(container, exec, &config),
        other => ExecResult::Failed { message: format!("read the exec's configuration: {other:?}") },
    };
    match record::write(&exec.join(record::EXEC_RESULT), &result) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn execute(container: &Path, exec: &Path, config: &ExecConfig) -> ExecResult {
    let (failure_reader, failure_writer) = match pipe_with(PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(error) => return ExecResult::Failed { message: format!("make a pipe: {error}") },
    };
    let started = join(container, exec, config, &failure_writer);
    drop(failure_writer);
    let mut message = String::new();
    let _ = File::from(failure_reader).read_to_string(&mut message);
    match started {
        _ if !message.is_empty() => ExecResult::CannotRun { message },
        Err(error) => ExecResult::Failed { message: crate::chain(&error) },
        Ok(pid) => {
            let_go_of_output();
            wait(pid, config.timeout_ms)
        }
    }
}

fn join(container: &Path, exec: &Path, config: &ExecConfig, failure: &OwnedFd) -> Result<i32, LibcontainerError> {
    let nothing = File::open("/dev/null").map_err(LibcontainerError::OtherIO)?;
    let pid = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(ReportingExecutor::new(failure))
        .with_stdin(nothing)
        .with_root_path(container.join(record::OCI_STATE))?
        .as_tenant()
        .with_process(Some(exec.join(record::PROCESS)))
        .with_detach(true)
        .build()?;
    Ok(pid.as_raw())
}

/// The streams end with the command, not with this helper.
fn let_go_of_output() {
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

fn wait(pid: i32, timeout_ms: Option<u64>) -> ExecResult {
    let failed = |step: &str, error: &dyn std::fmt::Display| ExecResult::Failed { message: format!("{step}: {error}") };
    let Some(process) = Pid::from_raw(pid) else {
        return failed("wait for the command", &"it has no pid");
    };
    let ended = match pidfd_open(process, PidfdFlags::empty()) {
        Ok(fd) => ends_in_time(&fd, timeout_ms),
        Err(error) => Err(error),
    };
    if !matches!(ended, Ok(true)) {
        // The command leads a session, so a group of its own; its children that left it end with the container.
        let _ = kill_process_group(process, Signal::KILL);
    }
    match (ended, reap(pid)) {
        (Ok(true), Ok(ended)) => ExecResult::Exited { code: ended.code },
        (Ok(false), Ok(_)) => ExecResult::TimedOut,
        (Err(error), _) => failed("wait for the command", &error),
        (_, Err(error)) => failed("reap the command", &error),
    }
}

/// False at the end of the timeout or of the lifeline.
fn ends_in_time(process: &OwnedFd, timeout_ms: Option<u64>) -> rustix::io::Result<bool> {
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    });
    let lifeline = std::io::stdin();
    let mut watched = [PollFd::new(process, PollFlags::IN), PollFd::new(&lifeline, PollFlags::IN)];
    loop {
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) => return Ok(!watched[0].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
