//! `cargo xtask test`: the README's second command.

use anyhow::Result;

use crate::{check, machine, peers, step};

/// Prepares the machine, then runs everything; the first failure ends it.
pub fn run(packages: &[String]) -> Result<()> {
    machine::prepare()?;
    let kubectl = peers::kubectls()?;
    let selection = |command: &mut std::process::Command| {
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
    step::run("lints", clippy.args(["--", "--deny", "warnings"]))?;
    // The whole-system tests run the product, which cargo builds with them: the same crates, the same features.
    let mut tests = step::cargo();
    tests.args(["test", "--release", "--no-fail-fast"]).env("PORTOLAN_TEST_KUBECTLS", std::env::join_paths(kubectl)?);
    selection(&mut tests);
    step::run("tests", &mut tests)
}
