//! The `portolan` binary. Processes that must not have threads are dispatched before anything else exists.

mod cli;
mod commands;
mod failure;
mod help;
mod logging;
mod modes;
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
    if let Some(part) = commands::Part::of(std::env::args_os()) {
        logging::start(logging::PARTS, logging::Format::Text);
        return ended(part.run());
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be there to read it: that is no other error.
            let _ = error.print();
            if let Some(hint) = help::hint(&error) {
                eprintln!("\nportolan: {hint}");
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // How a proxy logs is part of its configuration.
    if !matches!(cli.command, cli::Command::Proxy(_)) {
        logging::start(logging::COMMANDS, logging::Format::Text);
    }
    ended(commands::run(cli))
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("portolan: {}", failure::told(&error));
        failure::code(&error)
    })
}
