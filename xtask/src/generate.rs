//! `cargo xtask generate`: committed files that are made from published sources. Not part of any build: what it writes
//! is committed, so that building needs neither Go nor a network.

use std::path::{Path, PathBuf};

use clap::Subcommand;

mod go;
mod recordings;
mod schema;

#[derive(Subcommand)]
pub enum What {
    /// The schema table of crate `api`, from the Go modules k8s.io/api and k8s.io/apimachinery (needs `go`).
    Schema {
        /// Only compare: fail when the committed table differs.
        #[arg(long)]
        check: bool,
    },
    /// What upstream's own Go code answers to the cases that crate `api` is tested with (needs `go`).
    Recordings,
}

/// The release of k8s.io/api and k8s.io/apimachinery that everything is generated from.
const VERSION: &str = "v0.36.3";

pub fn run(what: What) -> anyhow::Result<()> {
    match what {
        What::Schema { check } => schema::run(check),
        What::Recordings => recordings::run(),
    }
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}
