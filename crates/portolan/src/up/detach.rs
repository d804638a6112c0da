//! `up --detach`: the same system in a process of its own, which the caller watches until it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::system::DataDir;

/// Starts the process and repeats what it says until it's ready or has failed.
pub fn start(dir: &DataDir) -> Result<ExitCode> {
    dir.make(&dir.logs())?;
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--detached").stdin(Stdio::null()).process_group(0);
    command.stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let mut child = command.spawn().context("cannot start in the background")?;
    // The command holds the pipe's other end too.
    drop(command);
    let mut buffer = [0; 4096];
    loop {
        let length = reader.read(&mut buffer).context("cannot hear from the background")?;
        if length == 0 {
            break;
        }
        std::io::stdout().write_all(&buffer[..length])?;
    }
    // It closes the pipe when it's ready, or by ending.
    match child.try_wait().context("cannot look at the background")? {
        Some(status) => Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Lets go of the caller: from here on what is said goes to the log.
pub fn ready(dir: &DataDir) -> Result<()> {
    let path = dir.logs().join("supervisor.log");
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    rustix::stdio::dup2_stdout(&log).context("cannot turn to the log")?;
    rustix::stdio::dup2_stderr(&log).context("cannot turn to the log")?;
    Ok(())
}
