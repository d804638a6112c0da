//! Which iptables a machine uses. There are two, whose rules don't see each other: one on the kernel's own old tables, one
//! on nf_tables. Whoever writes with the one that nobody else uses writes rules that are met in an order nobody expects.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::run;
use crate::{Error, Family, Table, read_save};

/// Overrides what is found: `nft` or `legacy`.
pub const FLAVOUR_VARIABLE: &str = "PORTOLAN_IPTABLES";

/// Where the kernel names the legacy tables that were ever used in a namespace. Looking with the legacy tool would make
/// them.
const LEGACY_TABLES: [(Family, &str); 2] =
    [(Family::V4, "/proc/thread-self/net/ip_tables_names"), (Family::V6, "/proc/thread-self/net/ip6_tables_names")];
const LIMIT: Duration = Duration::from_secs(60);
/// Where an administrator's programs lie, whatever PATH says.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Legacy,
    Nft,
}

impl Flavour {
    /// What `FLAVOUR_VARIABLE` says, if it is set.
    pub fn from_environment() -> Result<Option<Flavour>, Error> {
        match std::env::var(FLAVOUR_VARIABLE) {
            Err(_) => Ok(None),
            Ok(name) => match name.as_str() {
                "" => Ok(None),
                "nft" => Ok(Some(Flavour::Nft)),
                "legacy" => Ok(Some(Flavour::Legacy)),
                _ => Err(Error::NoFlavour(name)),
            },
        }
    }

    fn infix(self) -> &'static str {
        match self {
            Flavour::Legacy => "-legacy",
            Flavour::Nft => "-nft",
        }
    }

    pub(crate) fn wanted(self, family: Family) -> &'static str {
        match (family, self) {
            (Family::V4, Flavour::Legacy) => "iptables-legacy-restore",
            (Family::V4, Flavour::Nft) => "iptables-nft-restore",
            (Family::V6, Flavour::Legacy) => "ip6tables-legacy-restore",
            (Family::V6, Flavour::Nft) => "ip6tables-nft-restore",
        }
    }
}

/// The flavour to use in the calling thread's network namespace: what the environment says; the only one there is; the one
/// in which somebody has made one of the hinted chains; the one with more rules; that on nf_tables.
pub fn detect(hints: &[(Table, &str)]) -> Result<Flavour, Error> {
    if let Some(flavour) = Flavour::from_environment()? {
        return Ok(flavour);
    }
    let there = |flavour| find(Family::V4, flavour, "-restore").is_some();
    match (there(Flavour::Nft), there(Flavour::Legacy)) {
        (false, false) => return Err(Error::Missing { wanted: "iptables-restore" }),
        (true, false) => return Ok(Flavour::Nft),
        (false, true) => return Ok(Flavour::Legacy),
        (true, true) => {}
    }
    let (nft, legacy) = (count(Flavour::Nft, hints)?, count(Flavour::Legacy, hints)?);
    Ok(if legacy > nft { Flavour::Legacy } else { Flavour::Nft })
}

/// In which flavours a table of the calling thread's network namespace has a chain like this, or (legacy) is there at all.
/// Runs no tool: those on nf_tables can be asked about by netlink, and the legacy ones are not there where nobody uses them.
pub fn traces(chains: &[(Table, &str)]) -> Result<Vec<Flavour>, Error> {
    let mut found = Vec::new();
    let mut kernel = nft::Kernel::open().map_err(Error::Generation)?;
    for family in [nft::Family::Ip, nft::Family::Ip6] {
        for table in [Table::Mangle, Table::Nat, Table::Filter] {
            let names = kernel.chain_names(&nft::Table::new(family, table.name())).map_err(Error::Generation)?;
            if chains.iter().any(|(of, chain)| *of == table && names.iter().any(|name| name == chain)) {
                found.push(Flavour::Nft);
            }
        }
    }
    for (_, names) in LEGACY_TABLES {
        let known = std::fs::read_to_string(names).unwrap_or_default();
        if chains.iter().any(|(of, _)| known.lines().any(|line| line == of.name())) {
            found.push(Flavour::Legacy);
        }
    }
    found.dedup();
    Ok(found)
}

/// Whether a hinted chain is there, and how many rules there are, of both families.
fn count(flavour: Flavour, hints: &[(Table, &str)]) -> Result<(bool, usize), Error> {
    let (mut hinted, mut rules) = (false, 0);
    for (family, names) in LEGACY_TABLES {
        let known = std::fs::read_to_string(names).unwrap_or_default();
        let Some(program) = find(family, flavour, "-save") else { continue };
        for table in [Table::Mangle, Table::Nat, Table::Filter] {
            if flavour == Flavour::Legacy && !known.lines().any(|line| line == table.name()) {
                continue;
            }
            let mut command = Command::new(&program);
            command.args(["-t", table.name()]);
            let ended = run(command, None, LIMIT, |out| {
                read_save(out, table, &mut |line| match line {
                    crate::Saved::Chain { name, .. } => hinted |= hints.contains(&(table, name)),
                    crate::Saved::Rule { .. } => rules += 1,
                })
            })?;
            // Rules that can't be read don't say that this flavour is used; a tool that can't run (no module) neither.
            drop(ended.heard);
        }
    }
    Ok((hinted, rules))
}

/// A tool's path. Machines with one flavour may have it under the plain name.
pub(crate) fn find(family: Family, flavour: Flavour, what: &str) -> Option<PathBuf> {
    let stem = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    on_path(&format!("{stem}{}{what}", flavour.infix())).or_else(|| {
        let plain = on_path(&format!("{stem}{what}"))?;
        (flavour_of(&plain) == Some(flavour)).then_some(plain)
    })
}

/// "iptables v1.8.9 (nf_tables)"; without a word in brackets it is from before there was another.
fn flavour_of(program: &Path) -> Option<Flavour> {
    let read = |out| std::io::read_to_string(out).unwrap_or_default();
    let mut command = Command::new(program);
    command.arg("--version");
    let said = run(command, None, LIMIT, read).ok()?.heard;
    let version = said.lines().find(|line| line.contains(" v"))?;
    Some(if version.contains("(nf_tables)") { Flavour::Nft } else { Flavour::Legacy })
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from)).collect();
    places.into_iter().map(|place| place.join(program)).find(|path| path.is_file())
}
