//! A table with all that is in it, as read from a kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::object::{Chain, Content, Element, Key, Rule, Set, Table};
use crate::transaction::Generation;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainState {
    pub chain: Chain,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetState {
    pub set: Set,
    pub elements: Arc<BTreeMap<Key, Content>>,
}

/// The state of one table at one generation.
#[derive(Debug, Clone)]
pub struct Ruleset {
    pub table: Table,
    pub chains: BTreeMap<String, ChainState>,
    pub sets: BTreeMap<String, SetState>,
    pub generation: Generation,
}

impl SetState {
    pub fn iter(&self) -> impl Iterator<Item = Element> {
        self.elements.iter().map(|(key, content)| Element { key: key.clone(), content: content.clone() })
    }
}

/// Equal when the same packets would meet the same fate: generations don't count.
impl PartialEq for Ruleset {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.chains == other.chains && self.sets == other.sets
    }
}

impl Eq for Ruleset {}
