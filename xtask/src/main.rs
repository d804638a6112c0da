//! The project's own commands. Not responsible for what they do: each has a module of its own.

use clap::{Parser, Subcommand};

mod generate;

#[derive(Parser)]
#[command(name = "xtask", about = "The project's own commands.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Regenerate a committed file from its published source.
    Generate {
        #[command(subcommand)]
        what: generate::What,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Generate { what } => generate::run(what),
    }
}
