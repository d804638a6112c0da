//! `cargo xtask generate`: committed files that are made from published sources. Not part of any build: what it writes
//! is committed, so that building needs neither Go nor a network.

use clap::Subcommand;

mod go;
mod schema;

#[derive(Subcommand)]
pub enum What {
    /// The schema table of crate `api`, from the Go modules k8s.io/api and k8s.io/apimachinery (needs `go`).
    Schema {
        /// Only compare: fail when the committed table differs.
        #[arg(long)]
        check: bool,
    },
}

pub fn run(what: What) -> anyhow::Result<()> {
    match what {
        What::Schema { check } => schema::run(check),
    }
}
