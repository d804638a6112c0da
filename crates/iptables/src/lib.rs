//! iptables: tables, chains and rules as values; what `iptables-restore` is fed and what `iptables-save` prints; the tools
//! of both flavours, and a strict fake of them.
//!
//! Models the rules its users write; any other rule is kept as text. Knows no Kubernetes and makes no policy.

mod error;
pub mod fake;
mod flavour;
mod native;
mod parse;
mod process;
mod rule;
mod save;
pub mod sets;
mod text;
mod tool;
mod transaction;
mod xt;

pub use error::Error;
pub use fake::Fake;
pub use flavour::{FLAVOUR_VARIABLE, Flavour, detect, traces};
pub use parse::{comment_of, target_of};
pub use rule::{ChainName, Chance, Recent, Reject, Rule, States, Target, Test};
pub use save::{Saved, read_save};
pub use tool::Tool;
pub use transaction::{Jumps, Transaction};

/// The IP family a tool works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// The tables that are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Nat,
    Filter,
    Mangle,
}

/// Takes every line of a saved table.
pub type EachLine<'a> = &'a mut (dyn FnMut(Saved<'_>) + Send);

/// Something that takes transactions: the tools of a flavour, or a fake. For one family.
pub trait Iptables {
    /// Reads a table, line by line. A table that isn't there has no lines.
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error>;

    /// Applies transactions in order, each wholly or not at all.
    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error>;

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error>;

    /// Lets the kernel route 127.0.0.0/8 (`route_localnet`), so that connections from there can be translated.
    fn route_loopback(&mut self) -> Result<(), Error>;

    /// How many packets have met the rules of a chain that have this among their words. None are counted where nobody counts.
    fn packets(&mut self, _table: Table, _chain: &str, _words: &str) -> Result<u64, Error> {
        Ok(0)
    }

    /// A number that goes up by one with each transaction anybody commits, where there is such a number.
    fn generation(&mut self) -> Result<Option<u32>, Error>;
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Mangle => "mangle",
        }
    }

    pub fn from_name(name: &str) -> Option<Table> {
        [Table::Nat, Table::Filter, Table::Mangle].into_iter().find(|table| table.name() == name)
    }

    /// The chains the kernel itself calls.
    pub fn builtins(self) -> &'static [&'static str] {
        match self {
            Table::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
            Table::Filter => &["INPUT", "FORWARD", "OUTPUT"],
            Table::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
        }
    }
}
