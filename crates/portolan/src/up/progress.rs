//! What a person sees of `up`: what it waits for, the table, what changes.

use std::io::Write;
use std::time::{Duration, Instant};

use super::table::{self, Row};
use crate::system::DataDir;

/// Shows what is waited for, when that is something else than before, and not so often that nobody can read it.
#[derive(Default)]
pub struct Progress {
    last: String,
    at: Option<Instant>,
}

/// Between two lines.
const PAUSE: Duration = Duration::from_millis(500);

impl Progress {
    pub fn show(&mut self, missing: &[String]) {
        const SHOWN: usize = 4;
        if missing.is_empty() || self.at.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let mut text = missing.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        if missing.len() > SHOWN {
            text.push_str(&format!(" and {} more", missing.len() - SHOWN));
        }
        if text != self.last {
            eprintln!("waiting for {text}");
            self.last = text;
            self.at = Some(Instant::now());
        }
    }
}

/// The table, and how to go on from here.
#[allow(clippy::print_stdout, reason = "the command's output")]
pub fn table(rows: &[Row], dir: &DataDir, took: Duration) {
    println!("{}", table::text(rows));
    println!("ready after {:.2} s", took.as_secs_f64());
    println!("export KUBECONFIG={}", dir.kubeconfig().display());
    let _ = std::io::stdout().flush();
}

/// A line for each change.
#[allow(clippy::print_stdout, reason = "the command's output")]
pub fn changes(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
    let _ = std::io::stdout().flush();
}
