//! `cargo xtask test`: the README's second command.

use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::small::Said;
use crate::guest::{payload, small};
use crate::{check, machine, peers, step};

/// What compiling for 64-bit ARM needs.
const FOR_ARM: &[(&str, &str)] = &[("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")];

/// Prepares the machine, then runs everything; the first failure ends it.
pub fn run(packages: &[String]) -> Result<()> {
    // All that anything below needs, at once: so Debian's lists are fetched once.
    machine::prepare(if packages.is_empty() { &[FOR_ARM, small::PROGRAMS] } else { &[] })?;
    let kubectl = peers::kubectls()?;
    step::run("format", step::cargo().args(["fmt", "--all", "--check"]))?;
    check::run()?;
    let mut clippy = step::cargo();
    clippy.args(["clippy", "--release", "--all-targets", "--quiet"]).args(selection(packages));
    // All of it is compiled for this machine below: so it is looked at as 64-bit ARM has it, for which it must compile, too.
    if packages.is_empty() {
        for_arm(&mut clippy)?;
    }
    step::run("lints", clippy.args(["--", "--deny", "warnings"]))?;
    // The whole-system tests run the product, which cargo builds with them: the same crates, the same features. Examples
    // have been compiled by the lints; in documentation there are none that could be run, which `xtask check` holds.
    let tests = || {
        let mut tests = step::cargo();
        tests.args(["test", "--release", "--tests"]).args(selection(packages));
        tests
    };
    let mut running = tests();
    running.arg("--no-fail-fast").env("PORTOLAN_TEST_KUBECTLS", std::env::join_paths(kubectl)?);
    if !packages.is_empty() {
        return step::run("tests", &mut running);
    }
    let guest = small::whole(step::timed("building the tests", || payload::built(tests()))?)?;
    // Most of what runs here waits for something most of the time: that leaves the guest a processor.
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| guest.boot_behind());
        let here = step::run("tests", &mut running);
        let there = guest.join().ok().context("whoever watches the guest ended").and_then(Said::show);
        // Both are told.
        if let (Err(_), Err(error)) = (&here, &there) {
            eprintln!("xtask: the small guest: {error:#}");
        }
        here.and(there)
    })
}

/// The packages, as cargo wants them.
fn selection(packages: &[String]) -> Vec<&str> {
    match packages {
        [] => vec!["--workspace"],
        some => some.iter().flat_map(|package| ["-p", package]).collect(),
    }
}

/// Has a command check for 64-bit ARM; nothing runs that here.
fn for_arm(command: &mut Command) -> Result<()> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    let installed = step::output(Command::new("rustup").args(["target", "list", "--installed"]))?;
    if !installed.lines().any(|target| target == TARGET) {
        step::run("Rust's library for 64-bit ARM", Command::new("rustup").args(["target", "add", TARGET]))?;
    }
    command.args(["--target", TARGET]).env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc");
    // Nobody runs what the libraries in C become.
    command.env("CFLAGS_aarch64_unknown_linux_gnu", "-O0");
    Ok(())
}
