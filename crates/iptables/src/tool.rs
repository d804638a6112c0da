//! The tools of one flavour for one family. They work on the network namespace of the calling thread. Where it can be done, a
//! change is written without them (`native`), as they would write it: those on nf_tables list the kernel's whole table first.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nft::{Nft, NftError};

use crate::flavour::{Flavour, find};
use crate::native;
use crate::process::{Ended, run};
use crate::save::SaveError;
use crate::{EachLine, Error, Family, Iptables, Table, Transaction, read_save};

/// Seconds to wait for the lock that the legacy tools share, which a big table's write keeps for long; the others take the
/// option and need none.
const LOCK_SECONDS: &str = "30";
/// Where the legacy tools (since 1.8.6) look for that lock, if it is not /run/xtables.lock.
const LOCK_VARIABLE: &str = "XTABLES_LOCKFILE";
/// A tool has this long: kernels under load take minutes for tens of thousands of rules.
const LIMIT: Duration = Duration::from_secs(600);
/// What the tools exit with when the lock stayed taken (xtables.h: RESOURCE_PROBLEM).
const RESOURCE_PROBLEM: i32 = 4;
/// Of the network namespace of whoever opens it.
const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";
/// With more rules and chains than this a transaction is the tools': encoded at once it would take a kilobyte of our memory for each rule,
/// and text is fed as it is made.
const NATIVE_LIMIT: usize = 5_000;
/// How much of a refused line an error shows.
const SHOWN_LIMIT: usize = 400;

#[derive(Debug)]
pub struct Tool {
    family: Family,
    flavour: Flavour,
    restore: PathBuf,
    save: PathBuf,
    list: PathBuf,
    lock: Option<PathBuf>,
    /// The nft flavour's rules count among nf_tables', whose generation tells of every change.
    kernel: Option<nft::Kernel>,
    /// Transactions that no tool was run for.
    written_natively: u64,
    /// The kernel hasn't said what became of the last one: the next is a tool's.
    unanswered: bool,
}

impl Tool {
    /// Finds the tools. What tells of changes is opened in the calling thread's network namespace.
    pub fn open(family: Family, flavour: Flavour) -> Result<Tool, Error> {
        let find = |what| find(family, flavour, what).ok_or(Error::Missing { wanted: flavour.wanted(family) });
        let kernel = match flavour {
            Flavour::Nft => Some(nft::Kernel::open().map_err(Error::Generation)?),
            Flavour::Legacy => None,
        };
        let (restore, save, list) = (find("-restore")?, find("-save")?, find("")?);
        Ok(Tool { family, flavour, restore, save, list, lock: None, kernel, written_natively: 0, unanswered: false })
    }

    /// Takes another file as the legacy tools' lock. Only for whoever is alone in a network namespace: on one lock wait all
    /// namespaces that see the file.
    pub fn locked_by(self, file: impl Into<PathBuf>) -> Tool {
        Tool { lock: Some(file.into()), ..self }
    }

    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// How many transactions were written without running a tool.
    pub fn written_natively(&self) -> u64 {
        self.written_natively
    }

    /// Writes what needs no tool, up to the first transaction that does, and returns the rest. What the kernel refuses is left to
    /// the tools too, who say which line is wrong. What may have been written is not written again.
    fn write_natively<'a>(&mut self, transactions: &'a [Transaction]) -> Result<&'a [Transaction], Error> {
        let doubtful = std::mem::take(&mut self.unanswered);
        let Some(kernel) = self.kernel.as_mut().filter(|_| !doubtful) else { return Ok(transactions) };
        let mut rest = transactions;
        while let Some((first, behind)) = rest.split_first()
            && size(first) <= NATIVE_LIMIT
        {
            // Which chains are there is only asked where something is to lead from the kernel's to ours.
            let there = match first.jumps.is_empty() {
                true => Ok(Vec::new()),
                false => kernel.chain_names(&native::table(self.family, first.table)),
            };
            let Some(native) = there.ok().and_then(|there| native::transaction(self.family, first, &there)) else {
                break;
            };
            match kernel.apply(&native) {
                Ok(_) => {}
                Err(source @ NftError::Netlink { .. }) => {
                    self.unanswered = true;
                    return Err(Error::Write(source));
                }
                Err(_) => break,
            }
            self.written_natively += 1;
            rest = behind;
        }
        Ok(rest)
    }

    /// Feeds `iptables-restore` with anything, for tests.
    pub fn restore_text(&mut self, text: &str) -> Result<(), Error> {
        self.feed(&|to: &mut dyn Write| to.write_all(text.as_bytes()), |line| text.lines().nth(line).map(str::to_owned))
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(lock) = &self.lock {
            command.env(LOCK_VARIABLE, lock);
        }
        command
    }

    fn feed(&self, feed: &crate::process::Feed<'_>, line_at: impl Fn(usize) -> Option<String>) -> Result<(), Error> {
        let command = self.command(&self.restore, &["--noflush", "--wait", LOCK_SECONDS]);
        let ended = run(command, Some(feed), LIMIT, |mut out| io::copy(&mut out, &mut io::sink()))?;
        let program = self.restore.display().to_string();
        if ended.status.success() {
            return Ok(());
        }
        let Ended { status, said, .. } = ended;
        if is_locked(status, &said) {
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
        let command = self.command(&self.save, &["-t", table.name()]);
        let Ended { status, said, heard } = run(command, None, LIMIT, |out| read_save(out, table, each))?;
        let program = self.save.display().to_string();
        match heard {
            Ok(()) if status.success() => Ok(()),
            Ok(()) => Err(Error::Failed { program, status, said }),
            // Whoever reads no further ends the tool too (SIGPIPE), so this is the reason.
            Err(SaveError::Read(source)) => Err(Error::Pipe { program, source }),
            Err(SaveError::Incompatible) => Err(Error::Incompatible { program, table }),
            Err(SaveError::Unreadable(line)) => Err(Error::Unreadable { program, line }),
        }
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        let transactions = self.write_natively(transactions)?;
        if transactions.is_empty() {
            return Ok(());
        }
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
        let command = self.command(&self.list, &["--wait", LOCK_SECONDS, "-t", table.name(), "-S", chain, "1"]);
        let ended = run(command, None, LIMIT, |mut out| io::copy(&mut out, &mut io::sink()))?;
        let Ended { status, said, .. } = ended;
        let program = || self.list.display().to_string();
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ if is_locked(status, &said) => Err(Error::Locked { program: program(), said }),
            _ => Err(Error::Failed { program: program(), status, said }),
        }
    }

    fn packets(&mut self, table: Table, chain: &str, words: &str) -> Result<u64, Error> {
        let command = self.command(&self.list, &["--wait", LOCK_SECONDS, "-t", table.name(), "-v", "-S", chain]);
        let ended = run(command, None, LIMIT, |out| io::read_to_string(out).unwrap_or_default())?;
        let Ended { status, said, heard } = ended;
        let program = || self.list.display().to_string();
        match status.code() {
            Some(0) => Ok(heard.lines().filter(|line| line.contains(words)).filter_map(counted).sum()),
            _ if is_locked(status, &said) => Err(Error::Locked { program: program(), said }),
            _ => Err(Error::Failed { program: program(), status, said }),
        }
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        std::fs::write(ROUTE_LOCALNET, "1").map_err(Error::RouteLoopback)
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        let Some(kernel) = &mut self.kernel else { return Ok(None) };
        kernel.generation().map(|generation| Some(generation.0)).map_err(Error::Generation)
    }
}

/// `-c PACKETS BYTES`
/// How much there is to encode: rules, and chains.
fn size(transaction: &Transaction) -> usize {
    let rules = transaction.replace.iter().map(|(_, rules)| rules.len()).sum::<usize>();
    rules + transaction.replace.len() + transaction.empty.len() + transaction.delete.len()
}

fn counted(rule: &str) -> Option<u64> {
    rule.split_once(" -c ")?.1.split(' ').next()?.parse().ok()
}

fn is_locked(status: ExitStatus, said: &str) -> bool {
    status.code() == Some(RESOURCE_PROBLEM) && said.contains("lock")
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

    fn save_by(script: &str) -> Result<Vec<String>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let save = folder.path().join("save");
        // Written by another process: a thread that forks meanwhile would keep our handle, and nothing could run the file.
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&save).stdin(std::process::Stdio::piped());
        let mut child = install.spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let nothing = PathBuf::new();
        let mut tool = Tool {
            family: Family::V4,
            flavour: Flavour::Legacy,
            restore: nothing.clone(),
            save,
            list: nothing,
            lock: None,
            kernel: None,
            written_natively: 0,
            unanswered: false,
        };
        let mut lines = Vec::new();
        tool.save(Table::Nat, &mut |line| lines.push(format!("{line:?}"))).map(|()| lines)
    }

    #[test]
    fn why_reading_ended_early_is_said_and_not_how_the_tool_died() {
        // More than a pipe holds.
        let rules = "i=0; while [ $i -lt 9000 ]; do echo '-A A -j ACCEPT'; i=$((i+1)); done; echo COMMIT";
        let incompatible =
            save_by(&format!("#!/bin/sh\necho \"# Table \\`nat' is incompatible, use 'nft' tool.\"\n{rules}\n"));
        assert!(matches!(incompatible, Err(Error::Incompatible { .. })), "{incompatible:?}");
        let beside = save_by(&format!(
            "#!/bin/sh\necho \"# Table \\`nat' contains incompatible base-chains, use 'nft' tool to list them.\"\n\
             echo '*nat'\n{rules}\n"
        ));
        assert_eq!(beside.unwrap().len(), 9_000);
    }

    #[test]
    fn the_tools_end_is_said_when_all_was_read() {
        assert!(matches!(save_by("#!/bin/sh\nexit 3\n"), Err(Error::Failed { .. })));
    }

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
