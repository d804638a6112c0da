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
            tell(&format!("waiting for {text}"));
            self.last = text;
            self.at = Some(Instant::now());
        }
    }
}

/// The table, what is not ready, what was left out, and how to go on from here.
pub fn table(rows: &[Row], missing: &[String], skipped: usize, dir: &DataDir, took: Duration) {
    let ready = match missing {
        [] => format!("ready after {:.2} s", took.as_secs_f64()),
        some => format!("not ready after {:.0} s: {}", took.as_secs_f64(), some.join(", ")),
    };
    let ready = match skipped {
        0 => ready,
        some => format!("{ready}; {some} object(s) left out, named above"),
    };
    say(&format!("{}\n{ready}\n{}", table::text(rows), export(dir)));
}

/// The line by which a shell's kubectl finds the API.
pub fn export(dir: &DataDir) -> String {
    let path = dir.kubeconfig().display().to_string();
    // Only a path with a NUL can't be quoted, and there is none.
    format!("export KUBECONFIG={}", shlex::try_quote(&path).unwrap_or((&path).into()))
}

/// A line for each change.
pub fn changes(lines: &[String]) {
    if !lines.is_empty() {
        say(&lines.join("\n"));
    }
}

/// A line on standard output. Nobody may be there to read it any more: that ends nothing.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A line on standard error, likewise.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
