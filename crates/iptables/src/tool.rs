//! The tools of one flavour for one family. They work on the network namespace of the calling thread.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use nft::Nft;

use crate::flavour::{Flavour, find};
use crate::process::{Ended, run};
use crate::save::SaveError;
use crate::{EachLine, Error, Family, Iptables, Table, Transaction, read_save};

/// Seconds to wait for the lock that the legacy tools share; the others take the option and need none.
const LOCK_SECONDS: &str = "5";
/// A tool has this long: kernels under load take minutes for tens of thousands of rules.
const LIMIT: Duration = Duration::from_secs(600);
/// What the tools exit with when the lock stayed taken (xtables.h: RESOURCE_PROBLEM).
const RESOURCE_PROBLEM: i32 = 4;
/// How much of a refused line an error shows.
const SHOWN_LIMIT: usize = 400;

#[derive(Debug)]
pub struct Tool {
    flavour: Flavour,
    restore: PathBuf,
    save: PathBuf,
    list: PathBuf,
    /// The nft flavour's rules count among nf_tables', whose generation tells of every change.
    kernel: Option<nft::Kernel>,
}

impl Tool {
    /// Finds the tools. What tells of changes is opened in the calling thread's network namespace.
    pub fn open(family: Family, flavour: Flavour) -> Result<Tool, Error> {
        let find = |what| find(family, flavour, what).ok_or(Error::Missing { wanted: flavour.wanted(family) });
        let kernel = match flavour {
            Flavour::Nft => Some(nft::Kernel::open().map_err(Error::Generation)?),
            Flavour::Legacy => None,
        };
        Ok(Tool { flavour, restore: find("-restore")?, save: find("-save")?, list: find("")?, kernel })
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Feeds `iptables-restore` with anything, for tests.
    pub fn restore_text(&mut self, text: &str) -> Result<(), Error> {
        self.feed(&|to: &mut dyn Write| to.write_all(text.as_bytes()), |line| text.lines().nth(line).map(str::to_owned))
    }

    fn feed(&self, feed: &crate::process::Feed<'_>, line_at: impl Fn(usize) -> Option<String>) -> Result<(), Error> {
        let arguments = ["--noflush", "--wait", LOCK_SECONDS];
        let ended = run(&self.restore, &arguments, Some(feed), LIMIT, |mut out| io::copy(&mut out, &mut io::sink()))?;
        let program = self.restore.display().to_string();
        if ended.status.success() {
            return Ok(());
        }
        let Ended { status, said, .. } = ended;
        if status.code() == Some(RESOURCE_PROBLEM) && said.contains("lock") {
            return Err(Error::Locked { program, said });
        }
        let line = line_number(&said);
        match line.and_then(|line| Some((line, line_at(line.checked_sub(1)?)?))) {
            Some((line, mut text)) => {
                text.truncate(text.char_indices().nth(SHOWN_LIMIT).map_or(text.len(), |(at, _)| at));
                Err(Error::Refused { program, line, text, said })
            }
            None => Err(Error::Failed { program, status, said }),
        }
    }
}

impl Iptables for Tool {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        let ended = run(&self.save, &["-t", table.name()], None, LIMIT, |out| read_save(out, table, each))?;
        let program = || self.save.display().to_string();
        if !ended.status.success() {
            return Err(Error::Failed { program: program(), status: ended.status, said: ended.said });
        }
        ended.heard.map_err(|error| match error {
            SaveError::Read(source) => Error::Pipe { program: program(), source },
            SaveError::Incompatible => Error::Incompatible { program: program(), table },
            SaveError::Unreadable(line) => Error::Unreadable { program: program(), line },
        })
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        let feed = |to: &mut dyn Write| transactions.iter().try_for_each(|one| write!(to, "{one}"));
        let line_at = |line: usize| {
            let mut lines = transactions.iter().flat_map(|one| {
                let text = one.to_string();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            });
            lines.nth(line)
        };
        self.feed(&feed, line_at)
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        let arguments = ["--wait", LOCK_SECONDS, "-t", table.name(), "-S", chain, "1"];
        let ended = run(&self.list, &arguments, None, LIMIT, |mut out| io::copy(&mut out, &mut io::sink()))?;
        match ended.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => {
                let program = self.list.display().to_string();
                Err(Error::Failed { program, status: ended.status, said: ended.said })
            }
        }
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        let Some(kernel) = &mut self.kernel else { return Ok(None) };
        kernel.generation().map(|generation| Some(generation.0)).map_err(Error::Generation)
    }
}

/// The number behind the first "line": each version of the tools has words of its own for it.
fn line_number(said: &str) -> Option<usize> {
    said.match_indices("line").find_map(|(at, word)| {
        let rest = said[at + word.len()..].trim_start_matches([':', ' ']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_is_found_in_every_versions_words() {
        for (said, line) in [
            ("iptables-restore: line 3 failed", Some(3)),
            ("line 12: CHAIN_DEL failed (Device or resource busy): chain X", Some(12)),
            (
                "Couldn't load match `nope':No such file\n\nError occurred at line: 4\nTry `iptables-restore -h'",
                Some(4),
            ),
            ("another online message", None),
        ] {
            assert_eq!(line_number(said), line, "{said}");
        }
    }
}
