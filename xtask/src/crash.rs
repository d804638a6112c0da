//! `cargo xtask crash`: what breaks the product on purpose, for as long as one likes; the suite has a short run of each.

use anyhow::Result;
use clap::Subcommand;

use crate::step;

#[derive(Subcommand)]
pub enum What {
    /// Crash the store at many points (torn, lost and cut-off writes, failed syncs, a full disk, damaged files), and
    /// kill its server between the requests of concurrent clients.
    Store {
        /// Crash points of a healthy disk; half as many of a failing one, and as many damaged files.
        #[arg(long, default_value_t = 2500)]
        points: usize,
        /// Requests of the concurrent clients.
        #[arg(long, default_value_t = 60_000)]
        requests: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Kill -9 the processes of a system at random moments, under writes and traffic.
    System {
        #[arg(long, default_value_t = 200)]
        kills: usize,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// Runs one of them, in full.
pub fn run(what: What) -> Result<()> {
    match what {
        What::Store { points, requests, seed } => {
            let mut tests = step::cargo();
            tests.args(["test", "--release", "-p", "store", "--test", "crash", "--test", "crash_points"]);
            tests.args(["--test", "linearizable", "--", "--nocapture"]);
            tests.env("PORTOLAN_CRASH_POINTS", points.to_string());
            tests.env("PORTOLAN_REQUESTS", requests.to_string()).env("PORTOLAN_SEED", seed.to_string());
            step::run("crash the store", &mut tests)
        }
        What::System { kills, seed } => {
            let mut tests = step::cargo();
            tests.args(["test", "--release", "-p", "portolan", "--test", "chaos", "--", "--nocapture"]);
            tests.env("PORTOLAN_CHAOS_KILLS", kills.to_string()).env("PORTOLAN_SEED", seed.to_string());
            step::run("kill a system's processes", &mut tests)
        }
    }
}
