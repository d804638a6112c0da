//! Operations as messages of a batch.

use netlink::message::{FLAG_APPEND, FLAG_CREATE, FLAG_EXCL, FLAG_REPLACE};
use netlink::nfnetlink::EncodedBatch;
use netlink::{Batch, Builder, Sequence, Subsystem};

use super::{DATA_TYPE_VERDICT, DATA_VALUE, DATA_VERDICT, LIST_ELEM, UDATA_COMMENT, elem, encode_expr, msg, set_flag};
use crate::error::NftError;
use crate::expr::Verdict;
use crate::object::{Chain, Content, Data, Element, MapData, Policy, Rule, Set};
use crate::transaction::{Add, Op, Place, Transaction};
use crate::value::{DataType, Value, types_id, types_len};

/// Elements go into nested attributes whose length is a 16-bit number; a message ends before this.
const ELEMENTS_LIMIT: usize = 65_000;
/// The longest name the kernel takes, without its zero byte.
const NAME_LIMIT: usize = 255;
/// The longest comment nft reads, without its zero byte.
const COMMENT_LIMIT: usize = 127;

/// A batch and which operation each of its messages belongs to.
pub(crate) struct Encoded {
    pub(crate) batch: EncodedBatch,
    pub(crate) owners: Vec<usize>,
}

struct Encoder<'a> {
    transaction: &'a Transaction,
    sequence: &'a mut Sequence,
    batch: Batch,
    owners: Vec<usize>,
    op: usize,
    sets: u32,
}

pub(crate) fn encode(transaction: &Transaction, sequence: &mut Sequence) -> Result<Encoded, NftError> {
    let base = transaction.base.map(|generation| generation.0);
    let batch = Batch::begin(Subsystem::Nftables, base, sequence);
    let mut encoder = Encoder { transaction, sequence, batch, owners: Vec::new(), op: 0, sets: 0 };
    for (index, op) in transaction.ops.iter().enumerate() {
        check(index, &transaction.table.name, op)?;
        encoder.op = index;
        encoder.operation(op);
    }
    let Encoder { batch, owners, sequence, .. } = encoder;
    let batch =
        batch.finish(sequence).map_err(|source| NftError::Netlink { step: "encode the transaction", source })?;
    Ok(Encoded { batch, owners })
}

/// Bytes the transaction takes in one send.
impl Transaction {
    pub fn encoded_len(&self) -> Result<usize, NftError> {
        encode(self, &mut Sequence::default()).map(|encoded| encoded.batch.bytes.len())
    }
}

impl Encoder<'_> {
    fn push(&mut self, number: u8, flags: u16, body: impl FnOnce(&mut Builder, &str)) {
        let sequence = self.sequence.take();
        let table = &self.transaction.table;
        self.owners.push(self.op);
        self.batch.push(number, flags, table.family.number(), sequence, |m| body(m, &table.name));
    }

    fn operation(&mut self, op: &Op) {
        match op {
            Op::AddTable(add) => self.push(msg::NEWTABLE, create(*add), |m, table| m.text(1, table)),
            Op::DeleteTable => self.push(msg::DELTABLE, 0, |m, table| m.text(1, table)),
            Op::FlushTable => self.push(msg::DELRULE, 0, |m, table| m.text(1, table)),
            Op::AddChain(add, chain) => self.push(msg::NEWCHAIN, create(*add), |m, table| {
                m.text(1, table);
                write_chain(m, chain);
            }),
            Op::DeleteChain(chain) => self.push(msg::DELCHAIN, 0, |m, table| {
                m.text(1, table);
                m.text(3, chain);
            }),
            Op::FlushChain(chain) => self.push(msg::DELRULE, 0, |m, table| {
                m.text(1, table);
                m.text(2, chain);
            }),
            Op::AddRule { chain, place, rule } => self.rule(chain, *place, rule),
            Op::DeleteRule { chain, handle } => self.push(msg::DELRULE, 0, |m, table| {
                m.text(1, table);
                m.text(2, chain);
                m.be64(3, handle.0);
            }),
            Op::AddSet(add, set) => {
                self.sets += 1;
                let id = self.sets;
                self.push(msg::NEWSET, create(*add), |m, table| {
                    m.text(1, table);
                    write_set(m, set, id);
                });
            }
            Op::DeleteSet(set) => self.push(msg::DELSET, 0, |m, table| {
                m.text(1, table);
                m.text(2, set);
            }),
            Op::FlushSet(set) => self.push(msg::DELSETELEM, 0, |m, table| {
                m.text(1, table);
                m.text(2, &set.name);
            }),
            Op::AddElements(add, set, elements) => self.elements(msg::NEWSETELEM, create(*add), set, elements),
            Op::DeleteElements(set, elements) => self.elements(msg::DELSETELEM, 0, set, elements),
        }
    }

    fn rule(&mut self, chain: &str, place: Place, rule: &Rule) {
        let (flags, attribute) = match place {
            Place::Last => (FLAG_CREATE | FLAG_APPEND, None),
            Place::First => (FLAG_CREATE, None),
            Place::After(at) => (FLAG_CREATE | FLAG_APPEND, Some((6, at))),
            Place::Before(at) => (FLAG_CREATE, Some((6, at))),
            Place::Instead(at) => (FLAG_REPLACE, Some((3, at))),
        };
        self.push(msg::NEWRULE, flags, |m, table| {
            m.text(1, table);
            m.text(2, chain);
            if let Some((kind, handle)) = attribute {
                m.be64(kind, handle.0);
            }
            m.nested(4, |m| rule.exprs.iter().for_each(|expr| encode_expr::write(m, expr)));
            if let Some(protocol) = rule.xt_protocol {
                // NFTA_RULE_COMPAT: the protocol, and that it isn't negated.
                m.nested(5, |m| {
                    m.be32(1, protocol.into());
                    m.be32(2, 0);
                });
            }
            if let Some(comment) = &rule.comment {
                m.bytes(7, &comment_data(comment));
            }
        });
    }

    fn elements(&mut self, number: u8, flags: u16, set: &Set, elements: &[Element]) {
        let mut chunk = Builder::default();
        for element in elements {
            let before = chunk.len();
            write_element(&mut chunk, set, element);
            if chunk.len() > ELEMENTS_LIMIT && before > 0 {
                chunk.truncate(before);
                self.push_elements(number, flags, set, &chunk);
                chunk.truncate(0);
                write_element(&mut chunk, set, element);
            }
        }
        if !chunk.is_empty() {
            self.push_elements(number, flags, set, &chunk);
        }
    }

    fn push_elements(&mut self, number: u8, flags: u16, set: &Set, elements: &Builder) {
        self.push(number, flags, |m, table| {
            m.text(1, table);
            m.text(2, &set.name);
            m.nested(3, |m| m.raw(elements.as_bytes()));
        });
    }
}

fn create(add: Add) -> u16 {
    match add {
        Add::IfAbsent => FLAG_CREATE,
        Add::Exclusive => FLAG_CREATE | FLAG_EXCL,
    }
}

fn write_chain(m: &mut Builder, chain: &Chain) {
    m.text(3, &chain.name);
    let Some(base) = &chain.base else { return };
    m.nested(4, |m| {
        m.be32(1, base.hook.number());
        m.bytes(2, &base.priority.to_be_bytes());
    });
    let policy = match base.policy {
        Policy::Drop => 0,
        Policy::Accept => 1,
    };
    m.be32(5, policy);
    m.text(7, base.kind.name());
}

fn write_set(m: &mut Builder, set: &Set, id: u32) {
    m.text(2, &set.name);
    m.be32(3, flags(set));
    m.be32(4, types_id(&set.key));
    m.be32(5, length(&set.key));
    match &set.data {
        Some(MapData::Verdict) => m.be32(6, DATA_TYPE_VERDICT),
        Some(MapData::Value(types)) => {
            m.be32(6, types_id(types));
            m.be32(7, length(types));
        }
        None => {}
    }
    m.be32(10, id);
    let interval_fields = set.flags.interval && set.is_concatenation();
    if set.size.is_some() || interval_fields {
        m.nested(9, |m| {
            if let Some(size) = set.size {
                m.be32(1, size);
            }
            if interval_fields {
                m.nested(2, |m| {
                    for kind in &set.key {
                        let len = kind.size().and_then(|len| u32::try_from(len).ok()).unwrap_or(0);
                        m.nested(LIST_ELEM, |m| m.be32(1, len));
                    }
                });
            }
        });
    }
    if let Some(timeout) = set.timeout {
        m.be64(11, millis(timeout));
    }
    m.bytes(13, &byte_orders(set));
}

fn flags(set: &Set) -> u32 {
    let flags = [
        (set.flags.constant, set_flag::CONSTANT),
        (set.flags.interval, set_flag::INTERVAL),
        (set.flags.interval && set.is_concatenation(), set_flag::CONCAT),
        (set.flags.timeout, set_flag::TIMEOUT),
        (set.flags.dynamic, set_flag::EVAL),
        (set.is_map(), set_flag::MAP),
    ];
    flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum()
}

/// The only user data we write: the byte order of keys (tag 0) and data (tag 1), which every nft since 0.7 reads and
/// without which lone marks would list reversed. 0 stands for a concatenation, 1 for the machine's order, 2 for
/// big-endian.
fn byte_orders(set: &Set) -> Vec<u8> {
    let order = |types: &[DataType]| match types {
        [one] if one.is_host_endian() || matches!(one, DataType::IfName) => 1u32,
        [_] => 2,
        _ => 0,
    };
    let mut data = vec![0, 4];
    data.extend_from_slice(&order(&set.key).to_ne_bytes());
    if let Some(MapData::Value(types)) = &set.data {
        data.extend_from_slice(&[1, 4]);
        data.extend_from_slice(&order(types).to_ne_bytes());
    }
    data
}

/// Writes an element; an interval of a plain key is two: where it starts, and the first key behind it.
pub(crate) fn write_element(m: &mut Builder, set: &Set, element: &Element) {
    let plain_interval = set.flags.interval && !set.is_concatenation();
    m.nested(LIST_ELEM, |m| {
        let flagged = None;
        let key_end = (set.flags.interval && set.is_concatenation()).then(|| element.key.last());
        write_element_body(m, &element.key.start, key_end, flagged, &element.content);
    });
    if plain_interval && let Some(end) = element.key.last().successor() {
        m.nested(LIST_ELEM, |m| {
            write_element_body(m, &end, None, Some(elem::FLAG_INTERVAL_END), &Content::default());
        });
    }
}

fn write_element_body(m: &mut Builder, key: &Value, end: Option<&Value>, flags: Option<u32>, content: &Content) {
    if let Some(flags) = flags {
        m.be32(elem::FLAGS, flags);
    }
    write_value(m, elem::KEY, key);
    if let Some(end) = end {
        write_value(m, elem::KEY_END, end);
    }
    match &content.data {
        Some(Data::Value(value)) => write_value(m, elem::DATA, value),
        Some(Data::Verdict(verdict)) => m.nested(elem::DATA, |m| write_verdict(m, verdict)),
        None => {}
    }
    if let Some(timeout) = content.timeout {
        m.be64(elem::TIMEOUT, millis(timeout));
    }
    if let Some(expires) = content.expires {
        m.be64(elem::EXPIRATION, millis(expires));
    }
    if let Some(comment) = &content.comment {
        m.bytes(elem::USERDATA, &comment_data(comment));
    }
}

pub(crate) fn write_value(m: &mut Builder, kind: u16, value: &Value) {
    m.nested(kind, |m| m.bytes(DATA_VALUE, value.as_bytes()));
}

pub(crate) fn write_verdict(m: &mut Builder, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    m.nested(DATA_VERDICT, |m| {
        m.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            m.text(2, chain);
        }
    });
}

pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn length(types: &[DataType]) -> u32 {
    types_len(types).and_then(|len| u32::try_from(len).ok()).unwrap_or(0)
}

fn comment_data(comment: &str) -> Vec<u8> {
    // The length was checked; it counts the zero byte.
    let mut data = vec![UDATA_COMMENT, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

/// Refuses what would be cut or garbled on the way.
pub(crate) fn check(index: usize, table: &str, op: &Op) -> Result<(), NftError> {
    let fail = |reason| Err(NftError::Unencodable { index, reason });
    let bad_name = |name: &str| name.is_empty() || name.len() > NAME_LIMIT || name.contains('\0');
    let bad_comment = |comment: &Option<String>| {
        comment.as_ref().is_some_and(|c| c.len() > COMMENT_LIMIT || c.contains(['"', '\0', '\n']))
    };
    let name = match op {
        Op::AddTable(_) | Op::DeleteTable | Op::FlushTable => table,
        Op::AddChain(_, chain) => &chain.name,
        Op::DeleteChain(name) | Op::FlushChain(name) | Op::DeleteSet(name) => name,
        Op::AddRule { chain, .. } | Op::DeleteRule { chain, .. } => chain,
        Op::AddSet(_, set) | Op::FlushSet(set) => &set.name,
        Op::AddElements(_, set, _) | Op::DeleteElements(set, _) => &set.name,
    };
    if bad_name(name) || bad_name(table) {
        return fail("a name must have 1 to 255 bytes");
    }
    match op {
        Op::AddRule { rule, .. } if bad_comment(&rule.comment) => {
            fail("a comment must have at most 127 bytes, no quote and no line end")
        }
        Op::AddElements(_, _, elements) if elements.iter().any(|e| bad_comment(&e.content.comment)) => {
            fail("a comment must have at most 127 bytes, no quote and no line end")
        }
        Op::AddSet(_, set) if set.key_len().is_none_or(|len| len == 0 || len > 64) => {
            fail("a set's key must be of known types and have at most 64 bytes")
        }
        _ => Ok(()),
    }
}
