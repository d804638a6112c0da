//! What each command does.

mod dns;
mod down;
mod image;
mod manual;
mod part;
mod proxy;
mod run;
mod status;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::part::Part;
use crate::cli::{Cli, Command};
use crate::up;

/// Runs the command the user asked for.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Up(options) => up::start(&options),
        Command::Down(options) => block_on(down::down(&options)),
        Command::Status(system) => block_on(status::status(&system)),
        Command::Run(options) => run::run(&options),
        Command::Proxy(options) => proxy::run(&options),
        Command::Dns(command) => dns::run(&command),
        Command::Image(image) => image::run(&image),
        Command::Completion { shell } => manual::completion(shell),
        Command::Man { dir } => manual::man(dir.as_deref()),
    }
}

/// What has no effect any more may take so long to end.
const LEFT: Duration = Duration::from_secs(1);

/// Runs a future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start a runtime")?;
    let result = runtime.block_on(future);
    // What is left blocks (a file being read, a name being resolved) and leaves nothing half done that matters.
    runtime.shutdown_timeout(LEFT);
    result
}
