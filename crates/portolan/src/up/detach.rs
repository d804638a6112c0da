//! `up --detach`: the same system in a process of its own, which the caller watches until it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::system::DataDir;

/// Comes before the last byte of what is said before letting go, which is the exit code: without it, the end of what is
/// said is the end of the process.
const READY: u8 = 0;

/// Starts the process and repeats what it prints until it's ready or has failed. Its messages are the caller's as they are.
pub fn start(dir: &DataDir, reads_stdin: bool) -> Result<ExitCode> {
    dir.make(&dir.logs())?;
    let (mut reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new("/proc/self/exe");
    let stdin = if reads_stdin { Stdio::inherit() } else { Stdio::null() };
    command.args(std::env::args_os().skip(1)).arg("--detached").stdin(stdin).process_group(0);
    command.stdout(writer);
    let mut child = command.spawn().context("cannot start in the background")?;
    // The command holds the pipe's other end too.
    drop(command);
    let mut buffer = [0; 4096];
    loop {
        let length = reader.read(&mut buffer).context("cannot hear from the background")?;
        let heard = &buffer[..length];
        let said = heard.split(|byte| *byte == READY).next().unwrap_or_default();
        // Nobody may be there to read it any more: what was started goes on.
        let _ = std::io::stdout().write_all(said);
        if said.len() < length {
            let code = match heard.get(said.len() + 1) {
                Some(code) => *code,
                None => reader.read_exact(&mut buffer[..1]).map(|()| buffer[0]).unwrap_or_default(),
            };
            return Ok(ExitCode::from(code));
        }
        if length == 0 {
            let status = child.wait().context("cannot wait for the background")?;
            return Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)));
        }
    }
}

/// Lets go of the caller, who ends with the code: from here on what is said goes to the log.
pub fn ready(dir: &DataDir, code: u8) -> Result<()> {
    let path = dir.logs().join("supervisor.log");
    let log = File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot open {}", path.display()))?;
    rustix::stdio::dup2_stderr(&log).context("cannot turn to the log")?;
    // A caller who was killed meanwhile hears nothing, and the system was asked to go on.
    let _ = std::io::stdout().write_all(&[READY, code]).and_then(|()| std::io::stdout().flush());
    rustix::stdio::dup2_stdout(&log).context("cannot turn to the log")?;
    Ok(())
}
