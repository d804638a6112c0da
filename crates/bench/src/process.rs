//! Processes in a namespace of their own, ended with their owner. Not responsible for what they say.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netns::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// How long a process may take to end when it is asked to.
const END: Duration = Duration::from_secs(30);

/// Every process that runs, for when we are told to end ourselves.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Ends what runs when a signal ends us: nothing would be dropped then.
pub fn end_with_us() -> Result<()> {
    // By handlers, not by blocking the signals: what we start would inherit that.
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().context("an event loop")?;
    let listen = || Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    let (mut interrupt, mut terminate) = threads.block_on(async { listen() }).context("cannot listen for signals")?;
    std::thread::spawn(move || {
        threads.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        let running = std::mem::take(&mut *running());
        let pids = running.iter().filter_map(|pid| i32::try_from(*pid).ok()).map(Pid::from_raw);
        for pid in pids {
            // One that has just ended is as it should be.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let told = Instant::now();
        // A zombie's command line is empty.
        let lives = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        while running.iter().any(lives) && told.elapsed() < END {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::process::exit(130);
    });
    Ok(())
}

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that runs; dropping it ends it.
pub struct Process {
    child: Child,
    name: String,
    pub log: PathBuf,
    pub began: Instant,
}

impl Process {
    /// Starts a program in a network namespace, its output in a file.
    pub fn start(namespace: &NetNs, mut command: Command, log: &Path) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let began = Instant::now();
        let child = namespace.run(|| command.spawn())?.with_context(|| format!("cannot start {name}"))?;
        running().insert(child.id());
        Ok(Process { child, name, log: log.to_owned(), began })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error with its last words, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("cannot look after a process")? {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            bail!("{} ended with {status}:\n{}", self.name, lines[lines.len().saturating_sub(10)..].join("\n"));
        }
        Ok(())
    }

    /// Asks it until it gives something, for so long at most.
    pub fn until<T>(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&Process) -> Option<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.check()?;
            if begun.elapsed() > limit {
                bail!("{what}: not within {limit:?}; {} says:\n{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end and waits.
    pub fn end(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait().context("cannot look after a process")?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a process id")?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end {}", self.name))?;
        let asked = Instant::now();
        while asked.elapsed() < END {
            if self.child.try_wait().context("cannot look after a process")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().context("cannot look after a process")?;
        bail!("{} had to be killed", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        running().remove(&self.pid());
        if let Err(error) = self.stop() {
            eprintln!("bench: {error:#}");
        }
    }
}

/// The product, which `cargo xtask bench` builds beside us.
pub fn portolan() -> Result<PathBuf> {
    let ours = std::env::current_exe().context("cannot find our own executable")?;
    let path = ours.with_file_name("portolan");
    if !path.is_file() {
        bail!("there is no {}: build it with `cargo build --release -p portolan`", path.display());
    }
    Ok(path)
}
