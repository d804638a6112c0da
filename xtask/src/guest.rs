//! `cargo xtask test-vm`: the tests that touch the kernel, in a QEMU guest like most people's machine: Debian's own
//! kernel, systemd, and control groups of version 2 alone; with `--small`, and as a part of every `cargo xtask test`, those
//! that this machine's kernel may not be able to pass. Not responsible for what the tests check.

pub mod comparison;
mod cpio;
mod image;
pub mod init;
pub mod payload;
pub mod small;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{machine, peers};

/// What runs when nothing is named: everything that makes namespaces, groups, mounts, links and rules.
const PACKAGES: &[&str] = &[
    "netns",
    "conntrack",
    "nft",
    "iptables",
    "proxy-nftables",
    "proxy-iptables",
    "shim",
    "runtime-libcontainer",
    "node",
    "portolan",
];
/// Tests that hold for newer kernels only, by package and what their names begin with: nft's fake answers as kernels since
/// 6.3 do, the guest's is older.
const NEWER_KERNELS: &[(&str, &str)] = &[("nft", "agreement::")];
/// Programs the host needs for it, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] =
    &[("qemu-system-x86_64", "qemu-system-x86"), ("debootstrap", "debootstrap"), ("mkfs.ext4", "e2fsprogs")];
/// An emulated processor is some ten times slower than the real one: what tests wait for, times this.
const SLOWNESS: u32 = 10;
/// The timer's check counts ticks, of which a busy host hands out too few.
const COMMAND_LINE: &str = "root=/dev/vda rw console=ttyS0 quiet cgroup_no_v1=all systemd.show_status=0 no_timer_check";
/// Seconds.
const LOCKED_UP: u64 = 100;
/// In MiB.
const MEMORY: u32 = 3072;
/// For everything together.
const PATIENCE: Duration = Duration::from_secs(3 * 60 * 60);

/// Which tests to run in the guest.
#[derive(clap::Args)]
pub struct Options {
    /// Only the tests of these packages.
    #[arg(short, long)]
    package: Vec<String>,
    /// Only test binaries of these names (`suite`, `battery`, …).
    #[arg(long)]
    test: Vec<String>,
    /// Only tests whose names contain this.
    filter: Option<String>,
    /// In the guest that is there in seconds: only what needs a kernel with IPVS, SCTP and dummy devices.
    #[arg(long)]
    small: bool,
    /// In that guest, all cases of the packet table instead of a sample, and a whole proxy's life.
    #[arg(long, requires = "small")]
    whole: bool,
}

/// What QEMU boots.
struct Machine<'a> {
    kernel: &'a Path,
    initrd: &'a Path,
    command_line: &'a str,
    /// In QEMU's words.
    drives: &'a [String],
    /// In MiB.
    memory: u32,
    patience: Duration,
}

/// The guest's own kernel has locked itself up: that says nothing about what was tested.
#[derive(Debug)]
struct LockedUp;

/// How a test binary ended in the guest.
#[derive(Debug, Default)]
struct Outcome {
    binary: String,
    status: i32,
    seconds: u64,
    /// Tests in it that passed, and the names of those that failed.
    passed: usize,
    failed: Vec<String>,
}

/// Builds the image unless it is there, builds the tests, and boots.
pub fn run(options: &Options) -> Result<()> {
    let Options { package, test, filter, small, whole } = options;
    if *small {
        return small::run(&small::Choice {
            package: package.clone(),
            test: test.clone(),
            filter: filter.clone(),
            whole: *whole,
        });
    }
    machine::prepare_for("the guest", PROGRAMS)?;
    let image = image::prepare()?;
    let kubectls = peers::kubectls()?;
    let packages: Vec<&str> = match options.package.as_slice() {
        [] => PACKAGES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let mut binaries = payload::build(&packages, &options.test)?;
    for test in &mut binaries.tests {
        test.skip = NEWER_KERNELS.iter().find(|(package, _)| *package == test.package).map(|(_, skip)| *skip);
    }
    let disk = tempfile::Builder::new().prefix("portolan-guest-").tempdir().context("a temporary folder")?;
    let payload = payload::pack(disk.path(), &binaries, &kubectls, options.filter.as_deref(), SLOWNESS)?;
    eprintln!("── the guest: {} test binaries", binaries.tests.len());
    let drive = |path: &Path, options: &str| format!("file={},format=raw,if=virtio,{options}", path.display());
    let machine = Machine {
        kernel: &image.kernel,
        initrd: &image.initrd,
        command_line: COMMAND_LINE,
        drives: &[drive(&image.root, "snapshot=on"), drive(&payload, "readonly=on")],
        memory: MEMORY,
        patience: PATIENCE,
    };
    report(&machine.boot(|line| eprintln!("{line}"))?, binaries.tests.len())
}

impl Machine<'_> {
    /// Boots, shows what the guest says, and collects how each binary ended.
    fn boot(&self, mut show: impl FnMut(&str) + Send) -> Result<Vec<Outcome>> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &self.memory.to_string()])
            // No network card: nothing in there can reach anything out here.
            .args(["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-nic", "none"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initrd)
            .args(["-append", self.command_line])
            .args(self.drives.iter().flat_map(|drive| ["-drive", drive]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut guest = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        let lines = BufReader::new(guest.stdout.take().context("the guest's console")?);
        let locked_up = AtomicBool::new(false);
        let (ended, outcomes) = std::thread::scope(|scope| {
            let show = |line: &str| {
                locked_up.fetch_or(is_lockup(line), Ordering::Relaxed);
                show(line);
            };
            let console = scope.spawn(|| follow(lines, show));
            let ended = wait(&mut guest, self.patience, &locked_up);
            (ended, console.join().ok())
        });
        if locked_up.into_inner() {
            return Err(LockedUp.into());
        }
        match ended? {
            Some(status) if status.success() => outcomes.context("the console's reader ended"),
            Some(status) => bail!("qemu-system-x86_64 ended with {status}"),
            None => bail!("the guest was still busy after {} minutes", self.patience.as_secs() / 60),
        }
    }
}

/// How it ended; it is killed when that takes too long, and when its kernel will never do anything again.
fn wait(guest: &mut Child, patience: Duration, locked_up: &AtomicBool) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = guest.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience || locked_up.load(Ordering::Relaxed) {
            guest.kill()?;
            guest.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the kernel says that a processor hasn't left a lock alone for longer than a busy host explains.
fn is_lockup(line: &str) -> bool {
    let stuck = line.split_once("soft lockup").and_then(|(_, rest)| rest.split_once("stuck for "));
    let seconds = stuck.and_then(|(_, rest)| rest.split('s').next()?.parse::<u64>().ok());
    seconds.is_some_and(|seconds| seconds >= LOCKED_UP)
}

/// Shows each line; those that begin with RESULT are for us, and those that say how a test ended are counted.
fn follow(lines: impl BufRead, mut show: impl FnMut(&str)) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let (mut passed, mut failed) = (0, Vec::new());
    for line in lines.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        match verdict(line) {
            Some((_, true)) => passed += 1,
            Some((name, false)) => failed.push(name.to_owned()),
            None => {}
        }
        match outcome(line) {
            Some(outcome) => {
                show(&format!("── {}: {} s, status {}", outcome.binary, outcome.seconds, outcome.status));
                let (passed, failed) = (std::mem::take(&mut passed), std::mem::take(&mut failed));
                outcomes.push(Outcome { passed, failed, ..outcome });
            }
            None => show(&format!("   {line}")),
        }
    }
    outcomes
}

/// The test that a line is about, and whether it passed.
fn verdict(line: &str) -> Option<(&str, bool)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // What may follow it is how long it took.
    match verdict.split_whitespace().next() {
        Some("FAILED") => Some((name, false)),
        Some("ok") => Some((name, true)),
        _ => None,
    }
}

fn outcome(line: &str) -> Option<Outcome> {
    let mut words = line.strip_prefix("RESULT ")?.split(' ');
    Some(Outcome {
        binary: words.next()?.to_owned(),
        status: words.next()?.parse().ok()?,
        seconds: words.next()?.parse().ok()?,
        ..Outcome::default()
    })
}

fn report(outcomes: &[Outcome], wanted: usize) -> Result<()> {
    eprintln!("── {:<28} {:>7} {:>7} {:>8}", "in the guest", "passed", "failed", "seconds");
    for Outcome { binary, status, seconds, passed, failed } in outcomes {
        let ended = if *status == 0 { String::new() } else { format!("  status {status}: {}", failed.join(", ")) };
        eprintln!("── {binary:<28} {passed:>7} {:>7} {seconds:>8}{ended}", failed.len());
    }
    let failed: Vec<&str> = outcomes.iter().filter(|o| o.status != 0).map(|o| o.binary.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed in the guest: {}", failed.join(", "));
    }
    if outcomes.len() != wanted {
        bail!("{} of {wanted} test binaries reported from the guest: see its console above", outcomes.len());
    }
    eprintln!("── the guest: {wanted} test binaries passed");
    Ok(())
}

impl std::fmt::Display for LockedUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the guest's kernel has locked itself up")
    }
}

impl std::error::Error for LockedUp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted_by_their_binaries() {
        let console =
            "test a::b ... ok\ntest c ... FAILED\nRESULT one 101 5\r\ntest d ... ok (12 ms)\nRESULT two 0 1\n";
        let outcomes = follow(console.as_bytes(), |_| ());
        let counts: Vec<_> = outcomes.iter().map(|o| (o.binary.as_str(), o.passed, o.failed.len())).collect();
        assert_eq!(counts, [("one", 1, 1), ("two", 1, 0)]);
        assert_eq!(verdict("test e ... what it says"), None);
    }

    #[test]
    fn a_kernel_that_has_locked_itself_up_is_told_from_one_that_had_to_wait() {
        let line =
            |seconds| format!("   [  60.4] watchdog: BUG: soft lockup - CPU#0 stuck for {seconds}s! [suite:409]");
        assert_eq!([45, 99, 100, 365].map(|seconds| is_lockup(&line(seconds))), [false, false, true, true]);
        assert!(!is_lockup("test no_soft_lockup ... ok"));
    }

    #[test]
    fn only_the_guests_own_lines_count() {
        let found = outcome("RESULT battery 101 27").unwrap();
        assert_eq!((found.binary.as_str(), found.status, found.seconds), ("battery", 101, 27));
        assert!(outcome("a RESULT battery 0 1").is_none());
        assert!(outcome("RESULT battery").is_none());
        let passed = Outcome { binary: "a".into(), ..Outcome::default() };
        assert!(report(&[passed], 1).is_ok());
        assert!(report(&[], 1).is_err(), "a guest that says nothing hasn't passed");
    }
}
