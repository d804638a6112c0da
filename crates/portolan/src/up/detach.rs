//! `up --detach`: the same system in a process of its own, which the caller watches until it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::system::DataDir;

/// The last byte of what is said before letting go: without it, the end of what is said is the end of the process.
const READY: u8 = 0;

/// Starts the process and repeats what it prints until it's ready or has failed. Its messages are the caller's as they are.
pub fn start(dir: &DataDir) -> Result<ExitCode> {
    dir.make(&dir.logs())?;
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--detached").stdin(Stdio::null()).process_group(0);
    command.stdout(writer);
    let mut child = command.spawn().context("cannot start in the background")?;
    // The command holds the pipe's other end too.
    drop(command);
    let mut buffer = [0; 4096];
    loop {
        let length = reader.read(&mut buffer).context("cannot hear from the background")?;
        let (said, ready) = match &buffer[..length] {
            [said @ .., READY] => (said, true),
            said => (said, false),
        };
        std::io::stdout().write_all(said)?;
        if ready {
            return Ok(ExitCode::SUCCESS);
        }
        if length == 0 {
            let status = child.wait().context("cannot wait for the background")?;
            return Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)));
        }
    }
}

/// Lets go of the caller: from here on what is said goes to the log.
pub fn ready(dir: &DataDir) -> Result<()> {
    let path = dir.logs().join("supervisor.log");
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    rustix::stdio::dup2_stderr(&log).context("cannot turn to the log")?;
    std::io::stdout()
        .write_all(&[READY])
        .and_then(|()| std::io::stdout().flush())
        .context("cannot say that it's ready")?;
    rustix::stdio::dup2_stdout(&log).context("cannot turn to the log")?;
    Ok(())
}
