//! Comparisons of ours with the originals; `cargo xtask conformance` gets the originals and runs one.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use conformance::{Originals, api, enter_own_network};

#[derive(Parser)]
#[command(name = "conformance", about = "Sends the same to the originals and to ours, and lists what differs.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generated requests: verdict, message, object.
    Api(api::Options),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    enter_own_network()?;
    let agree = match &cli.command {
        Command::Api(options) => {
            let originals = Originals::start(api::flags())?;
            runtime()?.block_on(api::run(options, &originals))?
        }
    };
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
