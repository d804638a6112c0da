//! Running a command as a step: shown, timed, and failing with its own words.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs a command with its output shown; an exit status other than 0 is an error.
pub fn run(title: &str, command: &mut Command) -> Result<()> {
    timed(title, || {
        let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        if !status.success() {
            bail!("{title}: {:?} ended with {status}", command.get_program());
        }
        Ok(())
    })
}

/// Says what is done, and how long it took when it is done.
pub fn timed<T>(title: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("── {title}");
    let begun = Instant::now();
    let done = step()?;
    eprintln!("── {title}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(done)
}

/// Runs a command and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} ended with {}: {}", command.get_program(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The cargo that runs us, without what that says of this package: build scripts look at these variables, so that half of
/// the dependencies would be built anew whenever `cargo` and `cargo xtask` take turns.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        cargo.env_remove(name);
    }
    cargo
}
