//! From what is wanted and what is there to transactions: only chains that differ are written. Pure; running the tools is
//! `apply`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use iptables::{ChainName, Jumps, Rule, Table, Transaction};
use proxy::{RULES, Refusal, Size};
use service_model::{Changes, Masquerade, Revision, ServicePort, ServicePortName};

use crate::compile::Compiler;
use crate::layout::Shared;
use crate::settings::{Settings, endpoints};
use crate::state::{Fingerprint, Observed, Place};

/// What a table asks for.
#[derive(Clone, Debug)]
pub struct Desired {
    pub settings: Settings,
    pub ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
    pub revision: Revision,
    pub changes: Changes,
    /// Ports that are in quarantine, and therefore not among the others.
    pub refused: Vec<Refusal>,
}

/// At most one transaction per table, and how the Service ports are written after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IptablesPlan {
    /// `nat` comes first: whoever is forwarded doesn't meet what `filter` denies, so neither a Service that gets its first
    /// endpoint nor one that loses its last is refused while it should not be.
    pub(crate) transactions: Arc<Vec<Transaction>>,
    pub(crate) programmed: Vec<(ServicePortName, Option<Arc<ServicePort>>)>,
    pub(crate) settings: Option<Settings>,
    pub(crate) revision: Option<Revision>,
    pub(crate) refused: Vec<Refusal>,
    /// All that are wanted: whoever learns that a rule is refused looks for its port.
    pub(crate) ports: Arc<BTreeMap<ServicePortName, Arc<ServicePort>>>,
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    /// Chains that are wanted; those of them that differ are in `replace`.
    wanted: BTreeSet<(Table, ChainName)>,
    replace: BTreeMap<(Table, ChainName), Vec<Rule>>,
    gone: BTreeSet<(Table, ChainName)>,
    programmed: Vec<(ServicePortName, Option<Arc<ServicePort>>)>,
}

impl Desired {
    pub fn plan(&self, observed: &Observed) -> IptablesPlan {
        let before = observed.settings.as_ref().map(|settings| settings.commented);
        let settings = self.settings.clone().commented(endpoints(self.ports.values()), before);
        if settings == self.settings {
            self.plan_as_it_is(observed)
        } else {
            Desired { settings, ..self.clone() }.plan_as_it_is(observed)
        }
    }

    fn plan_as_it_is(&self, observed: &Observed) -> IptablesPlan {
        let mut planner = Planner {
            desired: self,
            observed,
            wanted: BTreeSet::new(),
            replace: BTreeMap::new(),
            gone: BTreeSet::new(),
            programmed: Vec::new(),
        };
        planner.plan_fixed();
        let incremental = observed.revision.is_some() && observed.settings.as_ref() == Some(&self.settings);
        if incremental {
            planner.plan_changes(&self.names_to_look_at(observed));
        } else {
            planner.plan_everything();
        }
        planner.finish()
    }

    /// Which Service ports may differ from how they were written.
    fn names_to_look_at(&self, observed: &Observed) -> BTreeSet<ServicePortName> {
        if observed.revision == self.changes.since {
            return self.changes.ports.clone();
        }
        let differs = |name: &&ServicePortName| match (self.ports.get(*name), observed.programmed.get(*name)) {
            (Some(port), Some(programmed)) => !Arc::ptr_eq(port, programmed),
            _ => true,
        };
        self.ports.keys().chain(observed.programmed.keys()).filter(differs).cloned().collect()
    }

    fn compiler<'a>(&'a self, name: &ServicePortName, port: &'a ServicePort) -> Compiler<'a> {
        Compiler::new(&self.settings, name, port)
    }
}

impl Planner<'_> {
    fn want(&mut self, table: Table, chain: ChainName, mut rules: Vec<Rule>) {
        rules.retain(|rule| !rule.is_impossible());
        let place = (table, chain);
        if self.observed.chains(table).get(&place.1) != Some(&Fingerprint::of(&rules)) {
            self.replace.insert(place.clone(), rules);
        }
        self.wanted.insert(place);
    }

    fn plan_fixed(&mut self) {
        let rules = self.desired.ports.values().flat_map(|port| [port.masquerade.internal, port.masquerade.external]);
        let some: BTreeSet<Masquerade> = rules.collect();
        let some = some.into_iter().filter(|who| self.desired.settings.needs_chain(*who)).collect();
        for (table, chain, rules) in self.desired.settings.fixed_chains(&some) {
            self.want(table, chain.into(), rules);
        }
    }

    fn plan_everything(&mut self) {
        let desired = self.desired;
        for (name, port) in desired.ports.iter() {
            let compiler = desired.compiler(name, port);
            for (table, chain, rules) in compiler.chains() {
                self.want(table, chain, rules);
            }
            self.programmed.push((name.clone(), Some(port.clone())));
        }
        let gone = self.observed.programmed.keys().filter(|name| !desired.ports.contains_key(*name));
        self.programmed.extend(gone.map(|name| (name.clone(), None)));
        self.plan_shared(&Shared::ALL.into());
        for table in [Table::Nat, Table::Filter] {
            let strays = self.observed.chains(table).keys().map(|chain| (table, chain.clone()));
            self.gone.extend(strays.filter(|place| !self.wanted.contains(place)));
        }
    }

    fn plan_changes(&mut self, names: &BTreeSet<ServicePortName>) {
        let desired = self.desired;
        let mut touched: BTreeSet<Shared> = BTreeSet::new();
        for name in names {
            let old = self.observed.programmed.get(name).map(|port| desired.compiler(name, port));
            let new = desired.ports.get(name).map(|port| desired.compiler(name, port));
            let entries = |compiler: &Option<Compiler<'_>>| -> BTreeSet<(Shared, Rule)> {
                compiler.iter().flat_map(Compiler::entries).collect()
            };
            let (before, after) = (entries(&old), entries(&new));
            touched.extend(before.symmetric_difference(&after).map(|(shared, _)| *shared));
            let before = old.iter().flat_map(Compiler::chains).map(|(table, chain, _)| (table, chain));
            self.gone.extend(before);
            for (table, chain, rules) in new.iter().flat_map(Compiler::chains) {
                self.want(table, chain, rules);
            }
            self.programmed.push((name.clone(), desired.ports.get(name).cloned()));
        }
        let wanted = &self.wanted;
        self.gone.retain(|place| !wanted.contains(place));
        // A masquerade rule with a chain of its own may not be needed any more.
        let strays = self.observed.nat.keys().filter(|chain| chain.starts_with(crate::names::MARK_SOME));
        let strays = strays.map(|chain| (Table::Nat, chain.clone())).filter(|place| !wanted.contains(place));
        self.gone.extend(strays.collect::<Vec<_>>());
        self.plan_shared(&touched);
    }

    /// Writes shared chains anew, from all Services.
    fn plan_shared(&mut self, touched: &BTreeSet<Shared>) {
        if touched.is_empty() {
            return;
        }
        let desired = self.desired;
        let mut chains: BTreeMap<Shared, Vec<Rule>> = touched.iter().map(|shared| (*shared, vec![])).collect();
        let mut cluster_ips: BTreeSet<Rule> = BTreeSet::new();
        for (name, port) in desired.ports.iter() {
            for (shared, rule) in desired.compiler(name, port).entries() {
                // Several ports of a Service have the same.
                if let Some(rules) = chains.get_mut(&shared)
                    && (shared != Shared::ClusterIps || cluster_ips.insert(rule.clone()))
                {
                    rules.push(rule);
                }
            }
        }
        for (shared, mut rules) in chains {
            let (table, chain) = shared.place();
            rules.extend(desired.settings.behind(shared));
            self.want(table, chain.into(), rules);
        }
    }

    /// The jumps into our chains. Where they stand is left alone as long as they are all there, in their order: whoever
    /// puts something before them may have a reason.
    fn jumps(&self) -> Vec<(Table, Jumps)> {
        let mut edits = Vec::new();
        let mut found: BTreeMap<&Place, &Vec<String>> = self.observed.jumps.iter().collect();
        for hook in self.desired.settings.hooks() {
            let place = (hook.table, hook.chain.to_owned());
            let specs = found.remove(&place).cloned().unwrap_or_default();
            let parsed: Vec<Option<Rule>> = specs.iter().map(|spec| Rule::parse(spec)).collect();
            if !parsed.iter().map(Option::as_ref).eq(hook.jumps.iter().map(Some)) {
                edits.push((hook.table, Jumps { chain: place.1, remove: specs, insert: hook.jumps }));
            }
        }
        for ((table, chain), specs) in found {
            edits.push((*table, Jumps { chain: chain.clone(), remove: specs.clone(), insert: vec![] }));
        }
        edits
    }

    fn finish(self) -> IptablesPlan {
        let mut transactions = [Table::Nat, Table::Filter].map(Transaction::new);
        let of = |table: Table| usize::from(table != Table::Nat);
        for (table, jumps) in self.jumps() {
            transactions[of(table)].jumps.push(jumps);
        }
        for ((table, chain), rules) in self.replace {
            transactions[of(table)].replace.push((chain, rules));
        }
        for (table, chain) in self.gone {
            let found = self.observed.chains(table).get(&chain);
            if !self.observed.pinned.contains(&(table, chain.clone())) {
                if found.is_some() {
                    transactions[of(table)].delete.push(chain);
                }
            } else if found.is_some_and(|found| *found != Fingerprint::default()) {
                transactions[of(table)].empty.push(chain);
            }
        }
        IptablesPlan {
            transactions: Arc::new(transactions.into_iter().filter(|one| !one.is_empty()).collect()),
            programmed: self.programmed,
            settings: Some(self.desired.settings.clone()),
            revision: Some(self.desired.revision),
            refused: self.desired.refused.clone(),
            ports: self.desired.ports.clone(),
        }
    }
}

/// What removes everything of ours.
pub fn removal(observed: &Observed) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    for table in [Table::Filter, Table::Nat] {
        let mut transaction = Transaction::new(table);
        for ((of, chain), specs) in &observed.jumps {
            if *of == table {
                transaction.jumps.push(Jumps { chain: chain.clone(), remove: specs.clone(), insert: vec![] });
            }
        }
        let mut chains: Vec<&ChainName> = observed.chains(table).keys().collect();
        chains.sort();
        for chain in chains {
            let pinned = observed.pinned.contains(&(table, chain.clone()));
            if pinned { &mut transaction.empty } else { &mut transaction.delete }.push(chain.clone());
        }
        if !transaction.is_empty() {
            transactions.push(transaction);
        }
    }
    transactions
}

impl proxy::Plan for IptablesPlan {
    fn steps(&self) -> usize {
        self.transactions.len()
    }

    fn first(&self, steps: usize) -> IptablesPlan {
        let whole = steps >= self.transactions.len();
        IptablesPlan {
            transactions: Arc::new(self.transactions.iter().take(steps).cloned().collect()),
            programmed: if whole { self.programmed.clone() } else { Vec::new() },
            settings: self.settings.clone().filter(|_| whole),
            revision: self.revision.filter(|_| whole),
            refused: self.refused.clone(),
            ports: self.ports.clone(),
        }
    }

    fn written(&self) -> Vec<Size> {
        let rules = |table: Table| {
            let of_table = self.transactions.iter().filter(|transaction| transaction.table == table);
            of_table.flat_map(|transaction| &transaction.replace).map(|(_, rules)| rules.len()).sum()
        };
        let size = |table: Table| Size { table: table.name(), kind: RULES, number: rules(table) };
        [Table::Nat, Table::Filter].map(size).to_vec()
    }

    fn refused(&self) -> &[Refusal] {
        &self.refused
    }
}

impl fmt::Display for IptablesPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transactions.iter().try_for_each(|transaction| transaction.fmt(f))
    }
}
