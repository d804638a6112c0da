//! What is in the kernel, in our terms: our chains by a fingerprint of their rules, and the jumps that lead to them. A
//! fingerprint is enough to tell whether a chain has to be written, and there may be hundreds of thousands of rules. Not
//! responsible for what ought to be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use iptables::{ChainName, Rule, Saved, Table, Transaction};
use service_model::{Revision, ServicePort, ServicePortName};

use crate::names::is_ours;
use crate::plan::IptablesPlan;
use crate::settings::Settings;

/// Of a chain's rules in their order, with their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    hash: u64,
    pub rules: u32,
}

/// A chain that is not ours, in its table.
pub type Place = (Table, String);

/// Our tables as far as we know.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub nat: HashMap<ChainName, Fingerprint>,
    pub filter: HashMap<ChainName, Fingerprint>,
    /// Our jumps in the kernel's chains, as they were saved.
    pub jumps: BTreeMap<Place, Vec<String>>,
    /// Chains of ours that somebody else's rules lead to: they can be emptied, but not deleted.
    pub pinned: BTreeSet<(Table, ChainName)>,
    /// How the Service ports were written that are in force; empty right after reading the kernel.
    pub programmed: BTreeMap<ServicePortName, Arc<ServicePort>>,
    pub settings: Option<Settings>,
    /// Of the table that was written last; none right after reading the kernel.
    pub revision: Option<Revision>,
    /// Counts the foreign writes seen when this was read.
    pub epoch: u64,
}

/// Takes in a saved table line by line.
#[derive(Default)]
pub struct Reader {
    observed: Observed,
    builtin: BTreeSet<Place>,
}

impl Fingerprint {
    pub fn of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Fingerprint {
        rules.into_iter().fold(Fingerprint::default(), |so_far, rule| so_far.with(rule))
    }

    fn with(self, rule: impl Hash) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        (self.hash, rule).hash(&mut hasher);
        Fingerprint { hash: hasher.finish(), rules: self.rules + 1 }
    }
}

impl Observed {
    pub fn chains(&self, table: Table) -> &HashMap<ChainName, Fingerprint> {
        if table == Table::Nat { &self.nat } else { &self.filter }
    }

    fn chains_mut(&mut self, table: Table) -> &mut HashMap<ChainName, Fingerprint> {
        if table == Table::Nat { &mut self.nat } else { &mut self.filter }
    }

    /// How many chains of ours a table has, and how many rules, jumps to them included.
    pub fn size(&self, table: Table) -> (usize, usize) {
        let of_chains: usize = self.chains(table).values().map(|found| found.rules as usize).sum();
        let jumps = self.jumps.iter().filter(|((of, _), _)| *of == table).map(|(_, specs)| specs.len());
        (self.chains(table).len(), of_chains + jumps.sum::<usize>())
    }

    /// Takes in a committed transaction.
    pub fn take(&mut self, transaction: &Transaction) {
        let table = transaction.table;
        let chains = self.chains_mut(table);
        for (chain, rules) in &transaction.replace {
            chains.insert(chain.clone(), Fingerprint::of(rules));
        }
        for chain in &transaction.empty {
            chains.insert(chain.clone(), Fingerprint::default());
        }
        for chain in &transaction.delete {
            chains.remove(chain);
        }
        for jumps in &transaction.jumps {
            let place = (table, jumps.chain.clone());
            let mut found = self.jumps.remove(&place).unwrap_or_default();
            for spec in &jumps.remove {
                if let Some(index) = found.iter().position(|one| one == spec) {
                    found.remove(index);
                }
            }
            let mut now: Vec<String> = jumps.insert.iter().map(Rule::to_string).collect();
            now.append(&mut found);
            if !now.is_empty() {
                self.jumps.insert(place, now);
            }
        }
    }

    /// Takes in that a whole plan is done.
    pub fn complete(&mut self, plan: &IptablesPlan) {
        for (name, port) in &plan.programmed {
            match port {
                Some(port) => self.programmed.insert(name.clone(), port.clone()),
                None => self.programmed.remove(name),
            };
        }
        self.settings.clone_from(&plan.settings);
        self.revision = plan.revision;
    }

    /// Whether the kernel holds the same, whatever was meant by it.
    pub fn same_rules(&self, other: &Observed) -> bool {
        let jumps = |observed: &Observed| -> Vec<(Place, Vec<Option<Rule>>)> {
            let parsed = |specs: &Vec<String>| specs.iter().map(|spec| Rule::parse(spec)).collect();
            observed.jumps.iter().map(|(place, specs)| (place.clone(), parsed(specs))).collect()
        };
        self.nat == other.nat
            && self.filter == other.filter
            && self.pinned == other.pinned
            && jumps(self) == jumps(other)
    }
}

impl Reader {
    pub fn line(&mut self, table: Table, line: Saved<'_>) {
        match line {
            Saved::Chain { name, builtin } => {
                if builtin {
                    self.builtin.insert((table, name.to_owned()));
                } else if is_ours(table, name) {
                    self.observed.chains_mut(table).insert(name.into(), Fingerprint::default());
                }
            }
            Saved::Rule { chain, spec } => match self.observed.chains_mut(table).get_mut(chain) {
                Some(fingerprint) => {
                    *fingerprint = match Rule::parse(spec) {
                        Some(rule) => fingerprint.with(rule),
                        None => fingerprint.with(spec),
                    };
                }
                None => self.foreign(table, chain, spec),
            },
        }
    }

    fn foreign(&mut self, table: Table, chain: &str, spec: &str) {
        let Some(target) = iptables::target_of(spec).filter(|target| is_ours(table, target)) else { return };
        let place = (table, chain.to_owned());
        if self.builtin.contains(&place) && Settings::is_jump(table, chain, spec) {
            self.observed.jumps.entry(place).or_default().push(spec.to_owned());
        } else {
            self.observed.pinned.insert((table, target.into()));
        }
    }

    pub fn finish(self, epoch: u64) -> Observed {
        Observed { epoch, ..self.observed }
    }
}
