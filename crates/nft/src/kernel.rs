//! The kernel of the network namespace in which it was opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use netlink::nfnetlink::{MessageType, NF_HEADER_LEN, Subsystem};
use netlink::{Builder, Dump, Error, ParseError, Socket};

use crate::error::{NftError, Reason};
use crate::object::{Set, Table};
use crate::ruleset::{ChainState, Ruleset, SetState};
use crate::transaction::{Generation, Op, Transaction};
use crate::wire::{decode, encode, msg};
use crate::{Applied, Nft};

/// How often a table may change under a dump before we give up.
const DUMP_ATTEMPTS: u32 = 10;
/// How much of a refused operation an error shows.
const SHOWN_LIMIT: usize = 400;
const ENOENT: i32 = 2;
const EPERM: i32 = 1;
/// What the kernel says when the batch's generation is not the current one.
const ERESTART: i32 = 85;

#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
}

impl Kernel {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::netfilter().map_err(|source| NftError::Netlink { step: "open the socket", source })?;
        Ok(Self { socket })
    }

    /// All tables of ours and others, by family and name. Families we don't model are left out.
    pub fn tables(&mut self) -> Result<Vec<Table>, NftError> {
        let step = |source| NftError::Netlink { step: "list tables", source };
        let dump = self.list(msg::GETTABLE, 0, |_| {}).map_err(step)?;
        let mut tables = Vec::new();
        for message in dump.messages() {
            let header = netlink::NfHeader::read(message.payload).map_err(|e| step(e.into()))?;
            if let Some(family) = crate::Family::from_number(header.family) {
                tables.push(Table::new(family, decode::table_name(&message).map_err(|e| step(e.into()))?));
            }
        }
        Ok(tables)
    }

    /// The names of a table's chains, whoever made them and whatever they hold.
    pub fn chain_names(&mut self, table: &Table) -> Result<Vec<String>, NftError> {
        let step = |source| NftError::Netlink { step: "list chains", source };
        let dump = self.list(msg::GETCHAIN, table.family.number(), |_| {}).map_err(step)?;
        let mut names = Vec::new();
        for message in dump.messages() {
            if decode::table_name(&message).map_err(|e| step(e.into()))? == table.name {
                names.push(decode::read_chain(&message).map_err(|e| step(e.into()))?.name);
            }
        }
        Ok(names)
    }

    fn list(&mut self, number: u8, family: u8, body: impl Fn(&mut Builder)) -> Result<Dump, Error> {
        self.socket.dump(MessageType { subsystem: Subsystem::Nftables, number }, family, body)
    }

    fn table_exists(&mut self, table: &Table) -> Result<bool, Error> {
        let kind = MessageType { subsystem: Subsystem::Nftables, number: msg::GETTABLE };
        match self.socket.request(kind, 0, table.family.number(), |m| m.text(1, &table.name)) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn chains(&mut self, table: &Table) -> Result<BTreeMap<String, ChainState>, Error> {
        let mut chains = BTreeMap::new();
        let dump = self.list(msg::GETCHAIN, table.family.number(), |_| {})?;
        for message in dump.messages() {
            if decode::table_name(&message)? == table.name {
                let chain = decode::read_chain(&message)?;
                chains.insert(chain.name.clone(), ChainState { chain, rules: Vec::new() });
            }
        }
        let dump = self.list(msg::GETRULE, table.family.number(), |m| m.text(1, &table.name))?;
        for message in dump.messages() {
            if decode::table_name(&message)? != table.name {
                continue;
            }
            let (chain, rule) = decode::read_rule(table.family, &message)?;
            if let Some(state) = chains.get_mut(&chain) {
                state.rules.push(rule);
            }
        }
        Ok(chains)
    }

    fn sets(&mut self, table: &Table) -> Result<BTreeMap<String, SetState>, Error> {
        let dump = self.list(msg::GETSET, table.family.number(), |m| m.text(1, &table.name))?;
        let mut found = Vec::new();
        for message in dump.messages() {
            if decode::table_name(&message)? == table.name {
                found.push(decode::read_set(&message)?);
            }
        }
        let mut sets = BTreeMap::new();
        for set in found {
            let elements = Arc::new(self.read_elements(table, &set)?);
            sets.insert(set.name.clone(), SetState { set, elements });
        }
        Ok(sets)
    }

    fn read_elements(&mut self, table: &Table, set: &Set) -> Result<BTreeMap<crate::Key, crate::Content>, Error> {
        let dump = self.list(msg::GETSETELEM, table.family.number(), |m| {
            m.text(1, &table.name);
            m.text(2, &set.name);
        })?;
        let mut raw = Vec::new();
        for message in dump.messages() {
            decode::read_elements(&message, &mut raw)?;
        }
        Ok(decode::join_elements(set, raw))
    }

    fn current_generation(&mut self) -> Result<Generation, Error> {
        let kind = MessageType { subsystem: Subsystem::Nftables, number: msg::GETGEN };
        let dump = self.socket.request(kind, 0, 0, |_| {})?;
        let message = dump.messages().next().ok_or(Error::NoAnswer)?;
        Ok(Generation(message.attributes(NF_HEADER_LEN)?.require(1, "generation")?.be32()?))
    }

    fn read_table(&mut self, table: &Table) -> Result<Option<Ruleset>, Error> {
        let generation = self.current_generation()?;
        if !self.table_exists(table)? {
            return Ok(None);
        }
        let chains = self.chains(table)?;
        let sets = self.sets(table)?;
        Ok(Some(Ruleset { table: table.clone(), chains, sets, generation }))
    }
}

impl Nft for Kernel {
    fn apply(&mut self, transaction: &Transaction) -> Result<Applied, NftError> {
        let encoded = encode::encode(transaction, &mut self.socket.sequence)?;
        self.socket.commit(&encoded.batch).map_err(|error| refused(transaction, &encoded, error))?;
        // With a base nobody else can have written in between; each commit adds one, and 0 is left out.
        let generation = match transaction.base {
            Some(Generation(base)) if !transaction.is_empty() => Generation(base.wrapping_add(1).max(1)),
            _ => self.generation()?,
        };
        Ok(Applied { generation })
    }

    fn dump(&mut self, table: &Table) -> Result<Option<Ruleset>, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            let read = match self.read_table(table) {
                // Something listed was gone when we asked for more of it.
                Err(error) if error.errno() == Some(ENOENT) => continue,
                read => read.map_err(|source| NftError::Netlink { step: "read the table", source })?,
            };
            let generation = self.generation()?;
            match read {
                Some(ruleset) if ruleset.generation != generation => {}
                done => return Ok(done),
            }
        }
        Err(NftError::Unstable(table.clone()))
    }

    fn elements(&mut self, table: &Table, set: &Set) -> Result<BTreeMap<crate::Key, crate::Content>, NftError> {
        match self.read_elements(table, set) {
            Err(error) if error.errno() == Some(ENOENT) => Ok(BTreeMap::new()),
            read => read.map_err(|source| NftError::Netlink { step: "read a set", source }),
        }
    }

    fn generation(&mut self) -> Result<Generation, NftError> {
        self.current_generation().map_err(|source| NftError::Netlink { step: "ask for the generation", source })
    }
}

/// Finds the operation a refusal is about.
fn refused(transaction: &Transaction, encoded: &encode::Encoded, error: Error) -> NftError {
    let refusals = match error {
        Error::Refused(refusals) => refusals,
        Error::TooBig { needed, capacity } => return NftError::TooBig { needed, capacity },
        source => return NftError::Netlink { step: "commit the transaction", source },
    };
    let owner = |sequence: u32| {
        let at = encoded.batch.operations.iter().position(|s| *s == sequence)?;
        encoded.owners.get(at).copied()
    };
    let first = refusals.iter().filter_map(|r| owner(r.sequence).map(|index| (index, r))).min_by_key(|(i, _)| *i);
    if let Some((index, refusal)) = first {
        let op = transaction.ops.get(index);
        return NftError::Refused {
            index,
            reason: Reason::from_errno(refusal.errno),
            detail: refusal.text.clone(),
            shown: op.map(|op| show(&transaction.table, op)).unwrap_or_default(),
        };
    }
    match (refusals.first().map(|r| r.errno), transaction.base) {
        (Some(ERESTART), Some(base)) => NftError::ForeignWrite(base),
        (Some(EPERM), _) => NftError::Privilege,
        (errno, _) => NftError::Commit(Reason::from_errno(errno.unwrap_or(0))),
    }
}

/// The operation as text, shortened.
pub(crate) fn show(table: &Table, op: &Op) -> String {
    let one = Transaction { table: table.clone(), ops: vec![op.clone()], base: None };
    let mut text = one.to_string();
    if let Some((cut, _)) = text.char_indices().nth(SHOWN_LIMIT) {
        text.truncate(cut);
        text.push('…');
    }
    text.trim_end().to_owned()
}

impl From<ParseError> for NftError {
    fn from(error: ParseError) -> Self {
        Self::Netlink { step: "understand the kernel's answer", source: error.into() }
    }
}
