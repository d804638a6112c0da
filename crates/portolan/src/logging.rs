//! Structured logs on standard error. `PORTOLAN_LOG` sets what is logged (`info`, `proxy=debug,warn`).

use tracing_subscriber::EnvFilter;

/// What a person sees is kept to warnings.
pub const COMMANDS: &str = "warn";

/// A node's parts tell what they do.
pub const PARTS: &str = "info";

#[derive(Clone, Copy)]
pub enum Format {
    Text,
    Json,
}

/// Starts logging, at this level unless the environment says otherwise.
pub fn start(level: &str, format: Format) {
    let filter = EnvFilter::try_from_env("PORTOLAN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // A line that can't be written (a full disk) is lost; complaining about it there would panic.
        .log_internal_errors(false);
    match format {
        Format::Text => lines.init(),
        Format::Json => lines.json().init(),
    }
}
