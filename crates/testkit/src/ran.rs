//! Programs: running one to its end with a time limit, or in the background with its lines read.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use netns::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::slowly;

/// No program of a test takes longer.
const LIMIT: Duration = Duration::from_secs(90);

/// What a program did.
#[derive(Clone)]
pub struct Ran {
    command: String,
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its standard output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    /// What it said on standard error, if it failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.status.success(), "{self:?}\nshould have failed");
        self.err
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\nout: {}\nerr: {}", self.command, self.status, self.out.trim_end(), self.err.trim_end())
    }
}

/// Runs a program in a network namespace to its end.
#[track_caller]
pub fn run(namespace: &NetNs, mut command: Command) -> Ran {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(namespace, command.stdin(Stdio::null()));
    let described = describe(&command);
    let pid = pid(&child);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(slowly(LIMIT)) else {
        let _ = kill(pid, Signal::SIGKILL);
        let said = receiver.recv_timeout(slowly(LIMIT)).ok().and_then(Result::ok);
        let said = said.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        panic!("{described}\nhas not ended within {:?}; it said: {}", slowly(LIMIT), String::from_utf8_lossy(&said));
    };
    let output = output.unwrap_or_else(|e| panic!("{described}: {e}"));
    Ran {
        command: described,
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program in the background. Killed when dropped.
pub struct Running {
    command: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    /// Starts a program in a network namespace; both its outputs are read as lines.
    #[track_caller]
    pub fn start(namespace: &NetNs, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(namespace, &mut command);
        let (sender, lines) = mpsc::channel();
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] =
            [child.stdout.take().map(|o| Box::new(o) as _), child.stderr.take().map(|o| Box::new(o) as _)];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let input = child.stdin.take();
        Running { command: describe(&command), child, input, lines, heard: Vec::new() }
    }

    /// Waits for a line that contains the text, and returns it.
    #[track_caller]
    pub fn line(&mut self, text: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(slowly(LIMIT)) else {
                panic!("{}\nhas not said {text:?}, only:\n{}", self.command, self.heard.join("\n"));
            };
            self.heard.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("standard input");
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("{}: {e}", self.command));
    }

    pub fn pid(&self) -> i32 {
        pid(&self.child).as_raw()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill(pid(&self.child), signal);
    }

    /// Waits for its end, and returns its status and everything it said.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        drop(self.input.take());
        while let Ok(line) = self.lines.recv_timeout(slowly(LIMIT)) {
            self.heard.push(line);
        }
        let status = self.child.wait().unwrap_or_else(|e| panic!("{}: {e}", self.command));
        (status, self.heard.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child inherits the network of the thread that makes it.
#[track_caller]
fn spawn(namespace: &NetNs, command: &mut Command) -> Child {
    let spawned = namespace.run(|| command.spawn()).expect("entering a network namespace needs CAP_SYS_ADMIN");
    spawned.unwrap_or_else(|e| panic!("cannot run {}: {e}", describe(command)))
}

fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a process id"))
}
