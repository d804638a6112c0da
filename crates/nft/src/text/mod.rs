//! nft's text: how transactions, rules and elements are printed.

mod rule;

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::expr::Verdict;
use crate::object::{Base, Data, Element, Key, MapData, Policy, Rule, Set, Table};
use crate::transaction::{Add, Op, Place};
use crate::value::{DataType, Field, Value};

/// Prints one operation, each command on a line.
pub(crate) fn write_op(f: &mut Formatter<'_>, table: &Table, op: &Op) -> fmt::Result {
    match op {
        Op::AddTable(add) => writeln!(f, "{} table {table}", verb(*add)),
        Op::DeleteTable => writeln!(f, "delete table {table}"),
        Op::FlushTable => writeln!(f, "flush table {table}"),
        Op::AddChain(add, chain) => {
            write!(f, "{} chain {table} {}", verb(*add), chain.name)?;
            if let Some(base) = &chain.base {
                write!(f, " {{ {base} }}")?;
            }
            writeln!(f)
        }
        Op::DeleteChain(chain) => writeln!(f, "delete chain {table} {chain}"),
        Op::FlushChain(chain) => writeln!(f, "flush chain {table} {chain}"),
        Op::AddRule { chain, place, rule } => match place {
            Place::Last => writeln!(f, "add rule {table} {chain} {rule}"),
            Place::First => writeln!(f, "insert rule {table} {chain} {rule}"),
            Place::After(at) => writeln!(f, "add rule {table} {chain} handle {} {rule}", at.0),
            Place::Before(at) => writeln!(f, "insert rule {table} {chain} handle {} {rule}", at.0),
            Place::Instead(at) => writeln!(f, "replace rule {table} {chain} handle {} {rule}", at.0),
        },
        Op::DeleteRule { chain, handle } => writeln!(f, "delete rule {table} {chain} handle {}", handle.0),
        Op::AddSet(add, set) => writeln!(f, "{} {} {table} {} {{ {set} }}", verb(*add), noun(set), set.name),
        Op::DeleteSet(set) => writeln!(f, "delete set {table} {set}"),
        Op::FlushSet(set) => writeln!(f, "flush {} {table} {}", noun(set), set.name),
        Op::AddElements(add, set, elements) => write_elements(f, verb(*add), table, set, elements),
        Op::DeleteElements(set, elements) => write_elements(f, "delete", table, set, elements),
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        let (kind, hook) = (self.kind.name(), self.hook.name());
        write!(f, "type {kind} hook {hook} priority {} ; policy {policy} ;", self.priority)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        rule::write_rule(f, self)
    }
}

/// What stands between a set's braces.
impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let has_slot = |types: &[DataType]| types.iter().any(|t| matches!(t, DataType::Slot));
        let by_sample = has_slot(&self.key) || matches!(&self.data, Some(MapData::Value(types)) if has_slot(types));
        let join = |types: &[DataType]| {
            let names = types.iter().map(|t| if by_sample { t.sample() } else { t.name() });
            names.collect::<Vec<_>>().join(" . ")
        };
        write!(f, "{} {}", if by_sample { "typeof" } else { "type" }, join(&self.key))?;
        match &self.data {
            Some(MapData::Verdict) => f.write_str(" : verdict")?,
            Some(MapData::Value(types)) => write!(f, " : {}", join(types))?,
            None => {}
        }
        f.write_str(" ;")?;
        if let Some(size) = self.size {
            write!(f, " size {size} ;")?;
        }
        let flags = [
            (self.flags.constant, "constant"),
            (self.flags.interval, "interval"),
            (self.flags.timeout, "timeout"),
            (self.flags.dynamic, "dynamic"),
        ];
        let flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !flags.is_empty() {
            write!(f, " flags {} ;", flags.join(","))?;
        }
        if let Some(timeout) = self.timeout {
            write!(f, " timeout {} ;", Span(timeout))?;
        }
        Ok(())
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// A time span as nft writes it.
pub(crate) struct Span(pub(crate) Duration);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (secs, rest) = (millis / 1000, millis % 1000);
        let parts =
            [(secs / 86400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s"), (rest, "ms")];
        if millis == 0 {
            return f.write_str("0s");
        }
        parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

/// A key, in the types of its set.
pub(crate) struct ShowKey<'a>(pub(crate) &'a Set, pub(crate) &'a Key);

impl Display for ShowKey<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(set, key) = self;
        let big_endian = set.big_endian_keys();
        let starts = key.start.fields(&set.key, big_endian);
        let ends = key.last().fields(&set.key, big_endian);
        for (index, (start, end)) in starts.iter().zip(&ends).enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            if start == end {
                write!(f, "{start}")?;
            } else if let Some(net) = as_network(start, end) {
                write!(f, "{net}")?;
            } else {
                write!(f, "{start}-{end}")?;
            }
        }
        Ok(())
    }
}

fn write_elements(f: &mut Formatter<'_>, verb: &str, table: &Table, set: &Set, elements: &[Element]) -> fmt::Result {
    write!(f, "{verb} element {table} {} {{ ", set.name)?;
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{}", ShowKey(set, &element.key))?;
        let content = &element.content;
        if let Some(timeout) = content.timeout {
            write!(f, " timeout {}", Span(timeout))?;
        }
        if let Some(expires) = content.expires {
            write!(f, " expires {}", Span(expires))?;
        }
        if let Some(comment) = &content.comment {
            write!(f, " comment \"{comment}\"")?;
        }
        match (&content.data, &set.data) {
            (Some(Data::Verdict(verdict)), _) => write!(f, " : {verdict}")?,
            (Some(Data::Value(value)), Some(MapData::Value(types))) => write!(f, " : {}", show_value(value, types))?,
            (Some(Data::Value(value)), _) => write!(f, " : {value:?}")?,
            (None, _) => {}
        }
    }
    writeln!(f, " }}")
}

/// A value in its types.
pub(crate) fn show_value(value: &Value, types: &[DataType]) -> String {
    value.fields(types, false).iter().map(Field::to_string).collect::<Vec<_>>().join(" . ")
}

/// The network that starts and ends with these addresses, if there is one.
fn as_network(start: &Field, end: &Field) -> Option<ipnet::IpNet> {
    let (Field::Addr(start), Field::Addr(end)) = (start, end) else { return None };
    let longest = if start.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|len| ipnet::IpNet::new(*start, len).ok())
        .find(|net| net.network() == *start && net.broadcast() == *end)
}

fn verb(add: Add) -> &'static str {
    match add {
        Add::IfAbsent => "add",
        Add::Exclusive => "create",
    }
}

fn noun(set: &Set) -> &'static str {
    if set.is_map() { "map" } else { "set" }
}
