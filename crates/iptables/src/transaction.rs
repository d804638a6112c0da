//! What is done to one table at once. Printed, it is what `iptables-restore --noflush` is fed.

use std::fmt;

use crate::Table;
use crate::rule::{ChainName, Rule};

/// Changes of one table. In the order of the fields: chains are made or emptied, filled, jumps are edited, chains deleted;
/// so a rule finds the chain it leads to, and no chain goes while a rule leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub table: Table,
    /// Chains with all their rules: made if they are not there, replaced if they are.
    pub replace: Vec<(ChainName, Vec<Rule>)>,
    /// Chains that are emptied and stay.
    pub empty: Vec<ChainName>,
    pub jumps: Vec<Jumps>,
    /// Chains that go. They have to be there.
    pub delete: Vec<ChainName>,
}

/// Changes of a chain that is not ours, which keeps everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jumps {
    pub chain: String,
    /// Each is removed once, by the text it was saved as.
    pub remove: Vec<String>,
    /// Put before everything else, in this order.
    pub insert: Vec<Rule>,
}

impl Transaction {
    pub fn new(table: Table) -> Transaction {
        Transaction { table, replace: vec![], empty: vec![], jumps: vec![], delete: vec![] }
    }

    pub fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.empty.is_empty() && self.jumps.is_empty() && self.delete.is_empty()
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table.name())?;
        let replaced = self.replace.iter().map(|(chain, _)| chain);
        for chain in replaced.chain(&self.empty).chain(&self.delete) {
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for (chain, rules) in &self.replace {
            for rule in rules {
                writeln!(f, "-A {chain} {rule}")?;
            }
        }
        for Jumps { chain, remove, insert } in &self.jumps {
            for spec in remove {
                writeln!(f, "-D {chain} {spec}")?;
            }
            for (place, rule) in insert.iter().enumerate() {
                writeln!(f, "-I {chain} {} {rule}", place + 1)?;
            }
        }
        for chain in &self.delete {
            writeln!(f, "-X {chain}")?;
        }
        writeln!(f, "COMMIT")
    }
}
