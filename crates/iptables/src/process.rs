//! Runs a tool with an end: fed, heard line by line, and killed when it takes too long. Not responsible for what the tool
//! says.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Error;

/// How much of what a tool says against us is kept.
const SAID_LIMIT: u64 = 4096;

/// What became of a run.
pub struct Ended<T> {
    pub status: ExitStatus,
    /// Standard error.
    pub said: String,
    pub heard: T,
}

/// What a tool is told.
pub type Feed<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + Sync + 'a;

/// Starts a program, feeds it, hears it to its end.
pub fn run<T>(
    mut command: Command,
    feed: Option<&Feed<'_>>,
    limit: Duration,
    hear: impl FnOnce(BufReader<ChildStdout>) -> T,
) -> Result<Ended<T>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let name = || program.clone();
    let start = |source| Error::Start { program: name(), source };
    let pipe = |source| Error::Pipe { program: name(), source };
    let input = if feed.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        // Words of errors are read.
        .env("LC_ALL", "C")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let ended = attend(&mut child, feed, limit, hear);
    if ended.is_err() {
        // Whatever went wrong on our side, nothing is left running.
        child.kill().ok();
        child.wait().ok();
    }
    let (ended, in_time) = ended.map_err(pipe)?;
    if in_time { Ok(ended) } else { Err(Error::Slow { program: name(), limit }) }
}

fn attend<T>(
    child: &mut Child,
    feed: Option<&Feed<'_>>,
    limit: Duration,
    hear: impl FnOnce(BufReader<ChildStdout>) -> T,
) -> io::Result<(Ended<T>, bool)> {
    let missing = || io::Error::other("a pipe is missing");
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or_else(missing)?);
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let in_time = AtomicBool::new(true);
    std::thread::scope(|scope| {
        if let (Some(stdin), Some(feed)) = (stdin, feed) {
            scope.spawn(move || {
                let mut writer = BufWriter::with_capacity(1 << 16, stdin);
                // A tool that refuses a line reads no further; its own words tell more than a broken pipe.
                feed(&mut writer).and_then(|()| writer.flush()).ok();
            });
        }
        let hears_errors = scope.spawn(move || {
            let mut said = Vec::new();
            let mut stderr = stderr;
            Read::by_ref(&mut stderr).take(SAID_LIMIT).read_to_end(&mut said).ok();
            io::copy(&mut stderr, &mut io::sink()).ok();
            String::from_utf8_lossy(&said).trim().to_owned()
        });
        scope.spawn(|| {
            let mut ends = [PollFd::new(&process, PollFlags::IN)];
            let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
            let ready = rustix::io::retry_on_intr(|| poll(&mut ends, Some(&limit)));
            if ready != Ok(1) {
                in_time.store(false, Ordering::Relaxed);
                pidfd_send_signal(&process, Signal::KILL).ok();
            }
        });
        let heard = hear(BufReader::with_capacity(1 << 16, stdout));
        let status = child.wait()?;
        let said = hears_errors.join().unwrap_or_default();
        Ok(Ended { status, said, heard })
    })
    .map(|ended| (ended, in_time.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cat(limit: u64, arguments: &[&str], feed: &Feed<'_>) -> Result<Ended<String>, Error> {
        let mut shell = Command::new("/bin/sh");
        shell.args(arguments);
        run(shell, Some(feed), Duration::from_secs(limit), |mut out| {
            let mut text = String::new();
            out.read_to_string(&mut text).ok();
            text
        })
    }

    #[test]
    fn a_program_is_fed_and_heard_at_once() {
        // More than any pipe holds, in both directions.
        let line = "x".repeat(999) + "\n";
        let feed = |to: &mut dyn Write| (0..2_000).try_for_each(|_| to.write_all(line.as_bytes()));
        let ended = cat(60, &["-c", "cat; echo done >&2; exit 3"], &feed).unwrap();
        assert_eq!((ended.heard.len(), ended.said.as_str(), ended.status.code()), (2_000_000, "done", Some(3)));
    }

    #[test]
    fn a_program_that_does_not_read_or_end_is_ended() {
        let feed = |to: &mut dyn Write| (0..100_000).try_for_each(|_| to.write_all(&[b'x'; 1000]));
        let slow = cat(1, &["-c", "exec sleep 600"], &feed);
        assert!(matches!(slow, Err(Error::Slow { .. })), "{:?}", slow.map(|ended| ended.said));
        assert!(matches!(cat(60, &["-c", "exit 2"], &feed), Ok(ended) if ended.status.code() == Some(2)));
    }
}
