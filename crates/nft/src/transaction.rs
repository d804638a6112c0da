//! A transaction: operations on one table that the kernel takes all or not at all.
//!
//! Printed, it is text that `nft -f` takes. (`nft` itself wants a `meta l4proto` match before a translation of ports;
//! the kernel does not.)

use std::fmt;

use crate::object::{Chain, Element, Handle, Rule, Set, Table};

/// The kernel's count of committed changes, of everybody in the network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// Whether an object may exist already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Add {
    /// `add`: fine if it's there already with the same definition.
    IfAbsent,
    /// `create`: refused if it's there.
    Exclusive,
}

/// Where a rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `add rule`: the end of the chain.
    Last,
    /// `insert rule`: the start of the chain.
    First,
    /// `add rule … position`: behind another rule.
    After(Handle),
    /// `insert rule … position`: before another rule.
    Before(Handle),
    /// `replace rule`
    Instead(Handle),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable(Add),
    /// Deletes the table with all that is in it; refused if it isn't there.
    DeleteTable,
    AddChain(Add, Chain),
    DeleteChain(String),
    /// Removes a chain's rules.
    FlushChain(String),
    /// Removes the rules of all the table's chains.
    FlushTable,
    AddRule {
        chain: String,
        place: Place,
        rule: Rule,
    },
    DeleteRule {
        chain: String,
        handle: Handle,
    },
    AddSet(Add, Set),
    DeleteSet(String),
    /// Removes a set's elements.
    FlushSet(Set),
    /// Adds elements; the set says how they are encoded and printed.
    AddElements(Add, Set, Vec<Element>),
    /// Deletes elements; refused if one isn't there.
    DeleteElements(Set, Vec<Element>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub table: Table,
    pub ops: Vec<Op>,
    /// Refused when anybody has committed anything since this generation.
    pub base: Option<Generation>,
}

impl Transaction {
    pub fn new(table: Table) -> Self {
        Self { table, ops: Vec::new(), base: None }
    }

    /// Makes the kernel refuse it if anybody has written since `generation`.
    pub fn only_at(mut self, generation: Generation) -> Self {
        self.base = Some(generation);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn push(&mut self, op: Op) -> &mut Self {
        self.ops.push(op);
        self
    }

    pub fn add_table(&mut self) -> &mut Self {
        self.push(Op::AddTable(Add::IfAbsent))
    }

    pub fn delete_table(&mut self) -> &mut Self {
        self.push(Op::DeleteTable)
    }

    /// Deletes the table whether or not it is there: adding it first is what works on every kernel.
    pub fn destroy_table(&mut self) -> &mut Self {
        self.add_table().delete_table()
    }

    pub fn flush_table(&mut self) -> &mut Self {
        self.push(Op::FlushTable)
    }

    pub fn add_chain(&mut self, chain: Chain) -> &mut Self {
        self.push(Op::AddChain(Add::IfAbsent, chain))
    }

    pub fn flush_chain(&mut self, chain: impl Into<String>) -> &mut Self {
        self.push(Op::FlushChain(chain.into()))
    }

    pub fn delete_chain(&mut self, chain: impl Into<String>) -> &mut Self {
        self.push(Op::DeleteChain(chain.into()))
    }

    /// Deletes a chain and its rules whether or not it is there.
    pub fn destroy_chain(&mut self, chain: impl Into<String>) -> &mut Self {
        let chain = chain.into();
        self.add_chain(Chain::regular(chain.clone())).flush_chain(chain.clone()).delete_chain(chain)
    }

    pub fn add_rule(&mut self, chain: impl Into<String>, rule: Rule) -> &mut Self {
        self.push(Op::AddRule { chain: chain.into(), place: Place::Last, rule })
    }

    /// Puts rules in the place of all that a chain has.
    pub fn replace_rules<'r>(&mut self, chain: &str, rules: impl IntoIterator<Item = &'r Rule>) -> &mut Self {
        self.flush_chain(chain);
        for rule in rules {
            self.add_rule(chain, rule.clone());
        }
        self
    }

    /// Makes the table anew of sets and chains, callees first, and nothing else.
    pub fn rebuild(&mut self, sets: impl IntoIterator<Item = Set>, chains: Vec<(Chain, Vec<Rule>)>) -> &mut Self {
        self.destroy_table().add_table();
        for set in sets {
            self.add_set(set);
        }
        for (chain, _) in &chains {
            self.add_chain(chain.clone());
        }
        for (chain, rules) in chains {
            for rule in rules {
                self.add_rule(chain.name.clone(), rule);
            }
        }
        self
    }

    pub fn delete_rule(&mut self, chain: impl Into<String>, handle: Handle) -> &mut Self {
        self.push(Op::DeleteRule { chain: chain.into(), handle })
    }

    pub fn add_set(&mut self, set: Set) -> &mut Self {
        self.push(Op::AddSet(Add::IfAbsent, set))
    }

    pub fn delete_set(&mut self, set: impl Into<String>) -> &mut Self {
        self.push(Op::DeleteSet(set.into()))
    }

    pub fn flush_set(&mut self, set: &Set) -> &mut Self {
        self.push(Op::FlushSet(set.clone()))
    }

    /// Adds elements; nothing when there are none.
    pub fn add_elements(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        if !elements.is_empty() {
            self.push(Op::AddElements(Add::IfAbsent, set.clone(), elements));
        }
        self
    }

    pub fn delete_elements(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        if !elements.is_empty() {
            self.push(Op::DeleteElements(set.clone(), elements));
        }
        self
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ops.iter().try_for_each(|op| crate::text::write_op(f, &self.table, op))
    }
}
