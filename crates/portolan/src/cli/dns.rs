//! `portolan dns`'s commands and flags. Not responsible for what a Corefile means.

use std::path::PathBuf;

use clap::Subcommand;

use super::Output;

#[derive(Subcommand, Clone)]
pub enum Dns {
    /// Say what a Corefile would do: what listens, for which zones, and the plugins that are asked, with all settings; or what
    /// is wrong with it.
    Check {
        /// The Corefile; `-` is standard input.
        #[arg(value_name = "COREFILE")]
        file: PathBuf,
        /// The port of keys without one, as CoreDNS's flag of that name.
        #[arg(short = 'p', long = "dns.port", value_name = "PORT", default_value_t = 53)]
        port: u16,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}
