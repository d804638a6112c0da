//! The last step of a container's process: execute the program, and report why when that fails. libcontainer's own
//! executor loses that (its process just ends with 255).
//!
//! Not responsible for finding out the program, user or environment.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

/// Where a program without a slash is looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Executes the program; writes a message into a pipe when it can't. The pipe's end closes by itself on success.
#[derive(Clone)]
pub(crate) struct ReportingExecutor {
    report: RawFd,
}

impl ReportingExecutor {
    /// `report` must outlive the executor and be close-on-exec.
    pub(crate) fn new(report: &OwnedFd) -> Self {
        Self { report: report.as_raw_fd() }
    }
}

impl Executor for ReportingExecutor {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(()) // `exec` finds out better, and reports.
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // SAFETY: this process has one thread.
        unsafe {
            for (name, _) in std::env::vars_os() {
                std::env::remove_var(name);
            }
            for (name, value) in envs {
                // Neither can be expressed; `set_var` would panic.
                if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
                    std::env::set_var(name, value);
                }
            }
        }
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
        reset_signals();
        let message = execute(&args);
        // SAFETY: the descriptor was inherited open and nothing in this process closes it.
        let report = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.report) };
        let _ = rustix::io::write(report, message.as_bytes());
        Err(ExecutorError::Other(message))
    }
}

/// Rust's start-up ignores SIGPIPE and our helpers block signals: neither must reach the program.
fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default disposition runs none of our code.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Returns only when the program can't be executed, with the reason.
fn execute(args: &[String]) -> String {
    let Some(name) = args.first().filter(|name| !name.is_empty()) else {
        return "no command given, and the image has none".to_owned();
    };
    let Ok(argv) = args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<Vec<_>, _>>() else {
        return format!("exec: {name:?}: an argument holds a NUL byte");
    };
    let mut worst = Errno::ENOENT;
    for candidate in candidates(name, std::env::var("PATH").ok().as_deref()) {
        let Ok(path) = CString::new(candidate) else { continue };
        let Err(errno) = nix::unistd::execv(&path, &argv);
        if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            worst = errno;
        }
    }
    match worst {
        Errno::ENOENT if !name.contains('/') => format!("exec: {name:?}: executable file not found in $PATH"),
        errno => format!("exec: {name:?}: {}", errno.desc().to_lowercase()),
    }
}

fn candidates(name: &str, path: Option<&str>) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let directories = path.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_PATH).split(':');
    directories.map(|directory| format!("{}/{name}", if directory.is_empty() { "." } else { directory })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_for_along_the_path() {
        assert_eq!(candidates("sh", Some("/bin:/usr/bin")), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(candidates("./sh", Some("/bin")), ["./sh"]);
        assert_eq!(candidates("sh", None)[0], "/usr/local/sbin/sh");
    }

    #[test]
    fn a_failure_names_the_program() {
        assert_eq!(execute(&["/no/such".into()]), "exec: \"/no/such\": no such file or directory");
        assert_eq!(
            execute(&["no-such-program-anywhere".into()]),
            "exec: \"no-such-program-anywhere\": executable file not found in $PATH"
        );
        assert_eq!(execute(&["/etc".into()]), "exec: \"/etc\": permission denied");
        assert_eq!(execute(&[]), "no command given, and the image has none");
    }
}
