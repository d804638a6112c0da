//! The project's own commands. Not responsible for what they do: each has a module of its own.

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod conformance;
mod crash;
mod fuzz;
mod generate;
mod guest;
mod image;
mod machine;
mod peers;
mod step;
mod test;

#[derive(Parser)]
#[command(name = "xtask", about = "The project's own commands.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that must hold: format, lints, layers, unit, kernel and whole-system tests. Installs what it needs
    /// from Debian's packages when it can, and names it when it can't.
    Test {
        /// Only the test binaries of these packages, after the same preparation.
        #[arg(short, long)]
        package: Vec<String>,
    },
    /// The tests that touch the kernel, in a QEMU guest with Debian's kernel, systemd and cgroup 2 alone.
    TestVm(guest::Options),
    /// The rules of the house: layers, documents that name what exists, sizes, module names.
    Check,
    /// Measure ours side by side with a peer; without a name, list what there is.
    Bench {
        name: Option<String>,
        /// For the benchmark itself: `-o json`, rounds and sizes; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Break it on purpose, at length.
    Crash {
        #[command(subcommand)]
        what: crash::What,
    },
    /// Give the product bytes that a fuzzer makes up: one target, or all for so many minutes each.
    Fuzz(fuzz::Options),
    /// Build the originals we are judged by (all, or those named) from their Go modules, and print where they are.
    Peers { names: Vec<String> },
    /// Send the same requests to the originals and to ours, and list what differs. Without a name, list what there is.
    Conformance {
        name: Option<String>,
        /// What the comparison itself understands; see `--help` of each.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write an OCI image of the static binary, for clusters that run it (deploy/).
    Image(image::Options),
    /// Regenerate a committed file from its published source.
    Generate {
        #[command(subcommand)]
        what: generate::What,
    },
}

fn main() -> anyhow::Result<()> {
    if guest::init::is_wanted() {
        guest::init::run();
    }
    match Cli::parse().command {
        Command::Test { package } => test::run(&package),
        Command::TestVm(options) => guest::run(&options),
        Command::Check => check::run(),
        Command::Bench { name, arguments } => bench::run(name.as_deref(), &arguments),
        Command::Crash { what } => crash::run(what),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Peers { names } => peers::print(&names),
        Command::Conformance { name, arguments } => conformance::run(name.as_deref(), &arguments),
        Command::Image(options) => image::run(&options),
        Command::Generate { what } => generate::run(what),
    }
}
