//! A strict stand-in for the kernel: takes the transactions the kernel takes, refuses what the kernel refuses.
//!
//! Where it differs it is stricter: a set that rules write to must say so (`dynamic`). Time stands still until
//! [`Fake::advance`].

mod check;
mod graph;
mod ops;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{NftError, Reason};
use crate::object::{Handle, Rule, Table};
use crate::ruleset::{ChainState, Ruleset, SetState};
use crate::transaction::{Generation, Op, Transaction};
use crate::wire::encode;
use crate::{Applied, Nft, kernel};

/// The send buffer of a socket without privileges on most machines.
pub const USUAL_CAPACITY: usize = 212_992;

#[derive(Debug, Clone)]
pub struct Fake {
    pub(crate) tables: BTreeMap<Table, State>,
    generation: Generation,
    capacity: Option<usize>,
}

/// One table.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) chains: BTreeMap<String, ChainState>,
    pub(crate) sets: BTreeMap<String, SetState>,
    /// Base chains in the order they were made: equal priorities run in this order.
    pub(crate) order: Vec<String>,
    handles: u64,
}

impl Default for Fake {
    fn default() -> Self {
        Self { tables: BTreeMap::new(), generation: Generation(1), capacity: None }
    }
}

impl Fake {
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses transactions longer than a socket's send buffer.
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Lets time pass: elements with a timeout age, and go when it is over.
    pub fn advance(&mut self, span: Duration) {
        for state in self.tables.values_mut().flat_map(|table| table.sets.values_mut()) {
            if !state.set.flags.timeout {
                continue;
            }
            Arc::make_mut(&mut state.elements).retain(|_, content| match &mut content.expires {
                Some(left) => {
                    *left = left.saturating_sub(span);
                    !left.is_zero()
                }
                None => true,
            });
        }
    }

    /// A commit by somebody else: the generation moves on.
    pub fn foreign_write(&mut self) {
        self.generation = Generation(self.generation.0.wrapping_add(1).max(1));
    }

    /// All tables.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.keys()
    }

    fn perform(&self, transaction: &Transaction) -> Result<BTreeMap<Table, State>, NftError> {
        let tables = self.run(transaction, false)?;
        // The kernel looks at a table as a whole once there is anything new that could be reached.
        let new = transaction.ops.iter().any(adds_reachable);
        let sound = tables.get(&transaction.table).is_none_or(|state| graph::validate(state).is_ok());
        if sound || !new {
            return Ok(tables);
        }
        // Again, step by step, to find whose fault it is.
        self.run(transaction, true)
    }

    fn run(&self, transaction: &Transaction, validate: bool) -> Result<BTreeMap<Table, State>, NftError> {
        let table = &transaction.table;
        let mut tables = self.tables.clone();
        for (index, op) in transaction.ops.iter().enumerate() {
            encode::check(index, &table.name, op)?;
            let mut done = ops::perform(&mut tables, table, op);
            if let Some(state) = tables.get(table).filter(|_| validate && adds_reachable(op)) {
                done = done.and_then(|()| graph::validate(state));
            }
            done.map_err(|reason| refused(transaction, index, reason))?;
        }
        Ok(tables)
    }
}

impl Nft for Fake {
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, NftError> {
        if let Some(capacity) = self.capacity {
            let needed = transaction.encoded_len()?;
            if needed > capacity {
                return Err(NftError::TooBig { needed, capacity });
            }
        }
        if let Some(base) = transaction.base
            && base != self.generation
        {
            return Err(NftError::ForeignWrite(base));
        }
        self.tables = self.perform(transaction)?;
        if !transaction.is_empty() {
            self.foreign_write();
        }
        Ok(Applied { generation: self.generation })
    }

    fn dump(&mut self, table: &Table) -> Result<Option<Ruleset>, NftError> {
        Ok(self.tables.get(table).map(|state| Ruleset {
            table: table.clone(),
            chains: state.chains.clone(),
            sets: state.sets.clone(),
            generation: self.generation,
        }))
    }

    fn generation(&mut self) -> Result<Generation, NftError> {
        Ok(self.generation)
    }
}

impl State {
    fn next_handle(&mut self) -> Handle {
        self.handles += 1;
        Handle(self.handles)
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.values().flat_map(|chain| &chain.rules)
    }
}

fn adds_reachable(op: &Op) -> bool {
    matches!(op, Op::AddRule { .. } | Op::AddElements(..))
}

fn refused(transaction: &Transaction, index: usize, reason: Reason) -> NftError {
    let shown = transaction.ops.get(index).map(|op| kernel::show(&transaction.table, op)).unwrap_or_default();
    NftError::Refused { index, reason, detail: None, shown }
}
