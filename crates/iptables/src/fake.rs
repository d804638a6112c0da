//! A strict stand-in for the tools: takes the text that `iptables-restore --noflush` takes, refuses what either flavour
//! refuses, and saves as they do. Takes only rules that are modelled. Not responsible for packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::parse::words;
use crate::rule::{Match, Reject, Rule, Target};
use crate::{EachLine, Error, Family, Iptables, Saved, Table, Transaction};

/// The kernel's XT_EXTENSION_MAXNAMELEN without the final zero.
const NAME_LIMIT: usize = 28;
/// The kernel's XT_MAX_COMMENT_LEN without the final zero.
const COMMENT_LIMIT: usize = 255;
const PROGRAM: &str = "the fake iptables-restore";

#[derive(Clone, Debug)]
pub struct Fake {
    family: Family,
    tables: BTreeMap<Table, Chains>,
    /// Counts transactions; `None` for a flavour without generations.
    generation: Option<u32>,
    /// Matches and protocols that its kernel doesn't have.
    missing: Vec<String>,
    routes_loopback: bool,
}

type Chains = BTreeMap<String, Chain>;

#[derive(Clone, Debug, Default)]
struct Chain {
    builtin: bool,
    /// As they are saved.
    rules: Vec<String>,
}

impl Fake {
    pub fn new(family: Family) -> Fake {
        Fake { family, tables: BTreeMap::new(), generation: Some(1), missing: vec![], routes_loopback: false }
    }

    /// One that can't tell that something has changed.
    pub fn without_generations(family: Family) -> Fake {
        Fake { generation: None, ..Fake::new(family) }
    }

    /// Its kernel has no such match. As the tools do, it names the rule's line if it has generations, else only the table's
    /// last one.
    pub fn lose(&mut self, name: &str) {
        self.missing.push(name.to_owned());
    }

    pub fn routes_loopback(&self) -> bool {
        self.routes_loopback
    }

    /// Takes what `iptables-restore --noflush` would be fed.
    pub fn restore_text(&mut self, text: &str) -> Result<(), Error> {
        let mut open: Option<(Table, Chains)> = None;
        for (index, line) in text.lines().enumerate() {
            let refused = |said: &str| Error::Refused {
                program: PROGRAM.to_owned(),
                line: index + 1,
                text: line.to_owned(),
                said: said.to_owned(),
            };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('*') {
                let table = Table::from_name(name).ok_or_else(|| refused("no such table"))?;
                open = Some((table, self.tables.get(&table).cloned().unwrap_or_else(|| builtins(table))));
            } else if line == "COMMIT" {
                let (table, chains) = open.take().ok_or_else(|| refused("no table is open"))?;
                acyclic(&chains).map_err(refused)?;
                let mut rules = chains.values().flat_map(|chain| &chain.rules);
                if rules.any(|spec| self.lacks(spec)) {
                    return Err(refused("the kernel lacks a match"));
                }
                self.tables.insert(table, chains);
                self.generation = self.generation.map(|generation| generation + 1);
            } else {
                let (table, chains) = open.as_mut().ok_or_else(|| refused("no table is open"))?;
                self.line(*table, chains, line).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// All tables, as `iptables-save` would print them.
    pub fn saved(&mut self) -> String {
        let tables: Vec<Table> = self.tables.keys().copied().collect();
        let mut text = String::new();
        for table in tables {
            text.push_str(&format!("*{}\n", table.name()));
            self.each_line(table, &mut |line| text.push_str(&printed(line)));
            text.push_str("COMMIT\n");
        }
        text
    }

    fn each_line(&self, table: Table, each: EachLine<'_>) {
        let Some(chains) = self.tables.get(&table) else { return };
        for (name, chain) in chains {
            each(Saved::Chain { name, builtin: chain.builtin });
        }
        for (chain, Chain { rules, .. }) in chains {
            rules.iter().for_each(|spec| each(Saved::Rule { chain, spec }));
        }
    }

    fn line(&self, table: Table, chains: &mut Chains, line: &str) -> Result<(), &'static str> {
        if let Some(rest) = line.strip_prefix(':') {
            let name = rest.split_whitespace().next().ok_or("a chain without a name")?;
            if name.len() > NAME_LIMIT {
                return Err("the chain's name is too long");
            }
            let chain = chains.entry(name.to_owned()).or_default();
            // The tools would empty a chain of the kernel's, which is not ours to do.
            if chain.builtin {
                return Err("the chain is the kernel's");
            }
            chain.rules.clear();
            return Ok(());
        }
        let (command, rest) = line.split_once(' ').ok_or("a command without a chain")?;
        let (name, spec) = rest.split_once(' ').unwrap_or((rest, ""));
        let length = chains.get(name).ok_or("no such chain")?.rules.len();
        match command {
            "-A" => self.insert(table, chains, name, length, spec),
            "-I" => {
                let (place, spec) = spec.split_once(' ').ok_or("a place is missing")?;
                let place: usize = place.parse().map_err(|_| "the place is no number")?;
                let index = place.checked_sub(1).filter(|index| *index <= length).ok_or("no such place")?;
                self.insert(table, chains, name, index, spec)
            }
            "-D" => {
                let rules = &mut chains.get_mut(name).ok_or("no such chain")?.rules;
                let wanted = Rule::parse(spec);
                let same = |rule: &String| rule == spec || (wanted.is_some() && Rule::parse(rule) == wanted);
                let index = rules.iter().position(same).ok_or("no such rule")?;
                rules.remove(index);
                Ok(())
            }
            "-X" => delete(chains, name),
            _ => Err("no such command"),
        }
    }

    fn insert(
        &self,
        table: Table,
        chains: &mut Chains,
        name: &str,
        index: usize,
        spec: &str,
    ) -> Result<(), &'static str> {
        let rule = Rule::parse(spec).ok_or("the fake models no such rule")?;
        self.check(table, chains, &rule)?;
        if self.generation.is_some() && self.lacks(spec) {
            return Err("the kernel lacks a match");
        }
        let rules = &mut chains.get_mut(name).ok_or("no such chain")?.rules;
        rules.insert(index, rule.to_string());
        Ok(())
    }

    fn lacks(&self, spec: &str) -> bool {
        self.missing.iter().any(|name| spec.contains(&format!("-m {name} ")))
    }

    fn check(&self, table: Table, chains: &Chains, rule: &Rule) -> Result<(), &'static str> {
        let of_family = |address: IpAddr| address.is_ipv4() == (self.family == Family::V4);
        if rule.is_impossible() {
            return Err("nobody is outside of everything");
        }
        let nets = [&rule.source, &rule.destination];
        if !nets.into_iter().flatten().all(|test| of_family(test.value.addr())) {
            return Err("the address is of the other family");
        }
        for one in &rule.matches {
            match one {
                Match::Comment(text) if text.len() > COMMENT_LIMIT => return Err("the comment is too long"),
                Match::DestinationPort(_) if !matches!(rule.protocol, Some(6 | 17 | 132)) => {
                    return Err("the protocol has no ports");
                }
                _ => {}
            }
        }
        match &rule.target {
            Some(Target::Jump(chain)) if chains.get(&**chain).is_none_or(|chain| chain.builtin) => {
                Err("there is no such chain to jump to")
            }
            Some(Target::Reject(_)) if table != Table::Filter => Err("REJECT is for the filter table"),
            Some(Target::Reject(Reject::TcpReset)) if rule.protocol != Some(6) => Err("tcp-reset is for TCP"),
            Some(Target::Dnat(_) | Target::Masquerade { .. }) if table != Table::Nat => {
                Err("addresses are translated in the nat table")
            }
            Some(Target::Dnat(to)) if !of_family(to.ip()) => Err("the address is of the other family"),
            Some(Target::Dnat(_)) if !matches!(rule.protocol, Some(6 | 17 | 132)) => {
                Err("a port needs a protocol that has ports")
            }
            _ => Ok(()),
        }
    }
}

impl Iptables for Fake {
    fn save(&mut self, table: Table, each: EachLine<'_>) -> Result<(), Error> {
        self.each_line(table, each);
        Ok(())
    }

    fn restore(&mut self, transactions: &[Transaction]) -> Result<(), Error> {
        self.restore_text(&transactions.iter().map(Transaction::to_string).collect::<String>())
    }

    fn has_chain(&mut self, table: Table, chain: &str) -> Result<bool, Error> {
        Ok(self.tables.get(&table).is_some_and(|chains| chains.contains_key(chain)))
    }

    fn route_loopback(&mut self) -> Result<(), Error> {
        self.routes_loopback = true;
        Ok(())
    }

    fn generation(&mut self) -> Result<Option<u32>, Error> {
        Ok(self.generation)
    }
}

fn builtins(table: Table) -> Chains {
    let empty = |name: &&str| ((*name).to_owned(), Chain { builtin: true, rules: Vec::new() });
    table.builtins().iter().map(empty).collect()
}

fn printed(line: Saved<'_>) -> String {
    match line {
        Saved::Chain { name, builtin } => format!(":{name} {} [0:0]\n", if builtin { "ACCEPT" } else { "-" }),
        Saved::Rule { chain, spec } => format!("-A {chain} {spec}\n"),
    }
}

fn leads_to(spec: &str) -> Option<String> {
    let words = words(spec)?;
    let at = words.iter().position(|word| word == "-j")?;
    words.get(at + 1).cloned()
}

fn delete(chains: &mut Chains, name: &str) -> Result<(), &'static str> {
    let chain = chains.get(name).ok_or("no such chain")?;
    if chain.builtin {
        return Err("the chain is the kernel's");
    }
    if !chain.rules.is_empty() {
        return Err("the chain is not empty");
    }
    if chains.values().flat_map(|chain| &chain.rules).any(|spec| leads_to(spec).as_deref() == Some(name)) {
        return Err("a rule leads to the chain");
    }
    chains.remove(name);
    Ok(())
}

/// No chain leads back to itself.
fn acyclic(chains: &Chains) -> Result<(), &'static str> {
    let edges: BTreeMap<&str, Vec<String>> = chains
        .iter()
        .map(|(name, chain)| {
            let targets = chain.rules.iter().filter_map(|spec| leads_to(spec));
            (name.as_str(), targets.filter(|target| chains.contains_key(target)).collect())
        })
        .collect();
    // Chains that lead nowhere are taken away until none is left: then there was no loop.
    let mut left: BTreeMap<&str, usize> = edges.iter().map(|(name, to)| (*name, to.len())).collect();
    let mut callers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, to) in &edges {
        to.iter().for_each(|target| callers.entry(target).or_default().push(name));
    }
    let mut done: Vec<&str> = left.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut taken = 0;
    while let Some(name) = done.pop() {
        taken += 1;
        for caller in callers.get(name).into_iter().flatten() {
            if let Some(count) = left.get_mut(caller) {
                *count -= 1;
                if *count == 0 {
                    done.push(caller);
                }
            }
        }
    }
    if taken == edges.len() { Ok(()) } else { Err("chains form a loop") }
}
