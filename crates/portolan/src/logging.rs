//! Structured logs on standard error. `PORTOLAN_LOG` sets what is logged (`info`, `proxy=debug,warn`).

use tracing_subscriber::EnvFilter;

use crate::cli::Command;

/// Starts logging: what a person sees is kept to warnings, a node's parts tell what they do.
pub fn start(command: &Command) {
    let level = match command {
        Command::Agent(_) | Command::Proxy(_) | Command::Dns(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A line that can't be written (a full disk) is lost; complaining about it there would panic.
        .log_internal_errors(false)
        .init();
}
