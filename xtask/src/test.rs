//! `cargo xtask test`: the README's second command.

use std::process::Command;

use anyhow::Result;

use crate::{check, machine, peers, step};

/// Prepares the machine, then runs everything; the first failure ends it.
pub fn run(packages: &[String]) -> Result<()> {
    machine::prepare()?;
    let kubectl = peers::kubectls()?;
    let selection = |command: &mut Command| {
        match packages {
            [] => command.arg("--workspace"),
            some => command.args(some.iter().flat_map(|p| ["-p".to_owned(), p.clone()])),
        };
    };
    step::run("format", step::cargo().args(["fmt", "--all", "--check"]))?;
    check::run()?;
    let mut clippy = step::cargo();
    clippy.args(["clippy", "--release", "--all-targets", "--quiet"]);
    selection(&mut clippy);
    // All of it is compiled for this machine below: so it is looked at as 64-bit ARM has it, for which it must compile, too.
    if packages.is_empty() {
        for_arm(&mut clippy)?;
    }
    step::run("lints", clippy.args(["--", "--deny", "warnings"]))?;
    // The whole-system tests run the product, which cargo builds with them: the same crates, the same features.
    let mut tests = step::cargo();
    tests.args(["test", "--release", "--no-fail-fast"]).env("PORTOLAN_TEST_KUBECTLS", std::env::join_paths(kubectl)?);
    selection(&mut tests);
    step::run("tests", &mut tests)
}

/// Has a command check for 64-bit ARM; nothing runs that here.
fn for_arm(command: &mut Command) -> Result<()> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    machine::prepare_for("checking for 64-bit ARM", &[("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")])?;
    let installed = step::output(Command::new("rustup").args(["target", "list", "--installed"]))?;
    if !installed.lines().any(|target| target == TARGET) {
        step::run("Rust's library for 64-bit ARM", Command::new("rustup").args(["target", "add", TARGET]))?;
    }
    command.args(["--target", TARGET]).env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc");
    Ok(())
}
