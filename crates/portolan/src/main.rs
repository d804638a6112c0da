//! The `portolan` binary. Processes that must not have threads are dispatched before anything else exists.

mod cli;
mod commands;
mod logging;
mod system;
mod up;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    if let Some(code) = shim::dispatch(std::env::args_os()) {
        return code;
    }
    if let Some(code) = testserver::dispatch(std::env::args_os()) {
        return code;
    }
    let cli = cli::Cli::parse();
    logging::start(&cli.command);
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}
