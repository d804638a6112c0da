//! The server inside the built-in image: what a pod runs when a Service is tried out. Its ways are those of agnhost's
//! `netexec`, `pause`, `connect` and `serve-hostname`, so that manifests written for it work.
//!
//! The same static binary as everything else: called `testserver`, or with `testserver` as its first argument.

mod cli;
mod connect;
mod health;
mod http_server;
mod udp_server;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

/// Runs the test server if these arguments (the program's name in front) ask for it.
pub fn dispatch(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let program = Path::new(args.first()?).file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    if program != "testserver" {
        if args.get(1).is_none_or(|first| first != "testserver") {
            return None;
        }
        args.remove(0);
    }
    Some(run(Cli::parse_from(args)))
}

fn run(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("testserver: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Netexec(options) => until_stopped(netexec(options)).await,
            Command::ServeHostname { port } => until_stopped(http_server::serve(port, "serve-hostname")).await,
            Command::Pause => until_stopped(std::future::pending()).await,
            Command::Connect(options) => connect::run(&options).await,
            Command::Env => print_env(),
            Command::True => Ok(()),
            Command::False => return ExitCode::FAILURE,
        }
        .map_or_else(
            |error| {
                eprintln!("testserver: {error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        )
    });
    // Tasks that still read a connection are not waited for.
    runtime.shutdown_background();
    done
}

async fn netexec(options: cli::Netexec) -> Result<(), Error> {
    tokio::try_join!(http_server::serve(options.http_port, "netexec"), udp_server::serve(options.udp_port)).map(drop)
}

/// As process 1 nothing ends us unless we listen for it (pid_namespaces(7)).
async fn until_stopped(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |source| Error::Signals { source };
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        done = work => done,
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    }
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn print_env() -> Result<(), Error> {
    let mut all: Vec<(String, String)> = std::env::vars().collect();
    all.sort();
    for (name, value) in all {
        println!("{name}={value}");
    }
    Ok(())
}

/// The failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on port {port} ({transport}): {source}")]
    Listen { port: u16, transport: &'static str, source: std::io::Error },
    #[error("cannot listen for signals: {source}")]
    Signals { source: std::io::Error },
    #[error("{code}")]
    Connect { code: &'static str },
}
