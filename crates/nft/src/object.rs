//! The objects of a table: chains, rules, sets and maps, elements.
//!
//! Equality means "the kernel would behave alike": handles, counters and remaining lifetimes don't count.

use std::time::Duration;

use crate::expr::{Expr, Verdict};
use crate::value::{DataType, Types, Value, types_len};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
}

/// A table, by family and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainType {
    Filter,
    Nat,
    Route,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    #[default]
    Accept,
    Drop,
}

/// What makes a chain a base chain: where the kernel calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainType,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub base: Option<Base>,
}

/// The kernel's number of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

/// A rule: expressions in order, and a comment for people.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    pub exprs: Vec<Expr>,
    pub comment: Option<String>,
    pub handle: Option<Handle>,
    /// What matches and targets of xtables are told to be the rule's protocol. The kernel doesn't show it again.
    pub xt_protocol: Option<u8>,
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapData {
    Verdict,
    Value(Types),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags {
    pub interval: bool,
    pub timeout: bool,
    /// Rules may write to it.
    pub dynamic: bool,
    pub constant: bool,
}

/// A named set, or a map when it has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: Types,
    pub data: Option<MapData>,
    pub flags: SetFlags,
    /// How many elements it may have; declared, the kernel needn't rehash while it grows.
    pub size: Option<u32>,
    /// How long elements live that don't say so themselves.
    pub timeout: Option<Duration>,
}

/// An element's key: one value, or all between two (both included) in an interval set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub start: Value,
    pub end: Option<Value>,
}

/// What a map holds for a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    Value(Value),
    Verdict(Verdict),
}

/// An element apart from its key.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub data: Option<Data>,
    pub timeout: Option<Duration>,
    /// What is left of its life, in what was read from a kernel.
    pub expires: Option<Duration>,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub key: Key,
    pub content: Content,
}

impl Family {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        }
    }
}

impl Table {
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family.name(), self.name)
    }
}

impl Hook {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

impl ChainType {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

impl Chain {
    /// A chain that other chains jump or go to.
    pub fn regular(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None }
    }

    /// A chain that the kernel calls, with policy accept.
    pub fn base(name: impl Into<String>, kind: ChainType, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), base: Some(Base { kind, hook, priority, policy: Policy::Accept }) }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.exprs == other.exprs && self.comment == other.comment
    }
}

impl Eq for Rule {}

impl Set {
    #[expect(clippy::self_named_constructors, reason = "stands beside map and verdict_map")]
    pub fn set(name: impl Into<String>, key: impl Into<Types>) -> Self {
        Self { name: name.into(), key: key.into(), data: None, flags: SetFlags::default(), size: None, timeout: None }
    }

    pub fn map(name: impl Into<String>, key: impl Into<Types>, data: impl Into<Types>) -> Self {
        Self { data: Some(MapData::Value(data.into())), ..Self::set(name, key) }
    }

    pub fn verdict_map(name: impl Into<String>, key: impl Into<Types>) -> Self {
        Self { data: Some(MapData::Verdict), ..Self::set(name, key) }
    }

    pub fn interval(mut self) -> Self {
        self.flags.interval = true;
        self
    }

    /// Elements may time out; with a default for those that don't say when.
    pub fn timeout(mut self, default: Option<Duration>) -> Self {
        self.flags.timeout = true;
        self.timeout = default;
        self
    }

    /// Rules may write to it. The kernel wants a size for such sets.
    pub fn dynamic(mut self) -> Self {
        self.flags.dynamic = true;
        self
    }

    pub fn size(mut self, size: u32) -> Self {
        self.size = Some(size);
        self
    }

    pub fn is_map(&self) -> bool {
        self.data.is_some()
    }

    pub fn is_concatenation(&self) -> bool {
        self.key.len() > 1
    }

    /// Bytes of a key; `None` when a type is not ours.
    pub fn key_len(&self) -> Option<usize> {
        types_len(&self.key)
    }

    /// Whether marks in keys are big-endian: the kernel orders the keys of interval sets as big-endian numbers.
    pub fn big_endian_keys(&self) -> bool {
        self.flags.interval && self.key.iter().any(|t| DataType::is_host_endian(*t))
    }
}

impl Key {
    pub fn range(start: impl Into<Value>, end: impl Into<Value>) -> Self {
        let (start, end) = (start.into(), end.into());
        if start == end { Self { start, end: None } } else { Self { start, end: Some(end) } }
    }

    /// All addresses of a network, in a set keyed by address alone.
    pub fn network(net: ipnet::IpNet) -> Self {
        Self::range(Value::addr(net.network()), Value::addr(net.broadcast()))
    }

    pub fn last(&self) -> &Value {
        self.end.as_ref().unwrap_or(&self.start)
    }
}

impl<V: Into<Value>> From<V> for Key {
    fn from(value: V) -> Self {
        Self { start: value.into(), end: None }
    }
}

impl Element {
    pub fn new(key: impl Into<Key>) -> Self {
        Self { key: key.into(), content: Content::default() }
    }

    pub fn to(mut self, value: impl Into<Value>) -> Self {
        self.content.data = Some(Data::Value(value.into()));
        self
    }

    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.content.data = Some(Data::Verdict(verdict));
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.content.timeout = Some(timeout);
        self
    }

    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.content.comment = Some(comment.into());
        self
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data && self.timeout == other.timeout && self.comment == other.comment
    }
}

impl Eq for Content {}
