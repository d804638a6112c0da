//! nf_tables: tables, chains, rules, sets and maps as values; transactions on them; a kernel, a strict fake, a tracer.
//!
//! Speaks netlink itself: no `nft` process, no C library. Knows no Kubernetes and makes no policy.

mod compat;
pub mod error;
pub mod expr;
pub mod fake;
pub mod kernel;
pub mod monitor;
pub mod object;
pub mod rule;
pub mod ruleset;
mod text;
pub mod tracer;
pub mod transaction;
pub mod value;
pub mod watched;
mod wire;

pub use error::{NftError, Reason};
pub use expr::{Direction, DynsetOp, Expr, L3, Reg, Reject, Verdict};
pub use fake::Fake;
pub use kernel::Kernel;
pub use monitor::{Monitor, News, read_news};
pub use object::{
    Base, Chain, ChainType, Content, Data, Element, Family, Handle, Hook, Key, MapData, Policy, Rule, Set, SetFlags,
    Table,
};
pub use rule::{AddrType, Load};
pub use ruleset::{ChainState, Ruleset, SetState};
pub use tracer::{Connection, Entry, Fate, Link, Packet, SourceTranslation, Trace, TraceError, World};
pub use transaction::{Add, Generation, Op, Place, Transaction};
pub use value::{Concat, DataType, Field, Types, Value};
pub use watched::{Epoch, Watched};
pub use wire::foreign::{again, understand};

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a committed transaction leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The generation after the commit.
    pub generation: Generation,
}

/// Something that takes transactions: the kernel, or a fake.
pub trait Nft {
    /// Applies all operations or none.
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, NftError>;

    /// Reads a table; `None` if it isn't there.
    fn dump(&mut self, table: &Table) -> Result<Option<Ruleset>, NftError>;

    /// Reads the elements of one set of a table; none if it isn't there.
    fn elements(&mut self, table: &Table, set: &Set) -> Result<BTreeMap<Key, Content>, NftError> {
        let found = self.dump(table)?.and_then(|ruleset| ruleset.sets.get(&set.name).map(|set| set.elements.clone()));
        Ok(found.map(Arc::unwrap_or_clone).unwrap_or_default())
    }

    /// The current generation.
    fn generation(&mut self) -> Result<Generation, NftError>;
}
