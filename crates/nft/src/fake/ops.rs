//! What each operation does to a table, and when the kernel refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{State, check};
use crate::error::Reason;
use crate::expr::{Expr, Verdict};
use crate::object::{Base, Chain, ChainType, Content, Data, Element, Handle, Hook, Key, MapData, Rule, Set, Table};
use crate::ruleset::{ChainState, SetState};
use crate::transaction::{Add, Op, Place};
use crate::value::{Value, types_len};

/// Translation works at or behind connection tracking's priority only.
const CONNTRACK_PRIORITY: i32 = -200;

pub(super) fn perform(tables: &mut BTreeMap<Table, State>, table: &Table, op: &Op) -> Result<(), Reason> {
    match op {
        Op::AddTable(add) => {
            if tables.contains_key(table) && *add == Add::Exclusive {
                return Err(Reason::Exists);
            }
            tables.entry(table.clone()).or_default();
            return Ok(());
        }
        Op::DeleteTable => return tables.remove(table).map(|_| ()).ok_or(Reason::Missing),
        _ => {}
    }
    let state = tables.get_mut(table).ok_or(Reason::Missing)?;
    match op {
        Op::AddTable(_) | Op::DeleteTable => Ok(()),
        Op::FlushTable => {
            state.chains.values_mut().for_each(|chain| chain.rules.clear());
            Ok(())
        }
        Op::AddChain(add, chain) => add_chain(state, *add, chain),
        Op::DeleteChain(name) => delete_chain(state, name),
        Op::FlushChain(name) => {
            state.chains.get_mut(name).ok_or(Reason::Missing)?.rules.clear();
            Ok(())
        }
        Op::AddRule { chain, place, rule } => add_rule(state, table, chain, *place, rule),
        Op::DeleteRule { chain, handle } => {
            let chain = state.chains.get_mut(chain).ok_or(Reason::Missing)?;
            let at = position(chain, *handle)?;
            chain.rules.remove(at);
            Ok(())
        }
        Op::AddSet(add, set) => add_set(state, *add, set),
        Op::DeleteSet(name) => delete_set(state, name),
        Op::FlushSet(set) => {
            let state = state.sets.get_mut(&set.name).ok_or(Reason::Missing)?;
            state.elements = Arc::default();
            Ok(())
        }
        Op::AddElements(add, set, elements) => {
            elements.iter().try_for_each(|element| add_element(state, *add, &set.name, element))
        }
        Op::DeleteElements(set, elements) => delete_elements(state, set, elements),
    }
}

fn add_chain(state: &mut State, add: Add, chain: &Chain) -> Result<(), Reason> {
    if let Some(present) = state.chains.get_mut(&chain.name) {
        return match (add, &mut present.chain.base, &chain.base) {
            // A base chain comes with a policy, and a policy is refused for a regular chain before anything else.
            (_, None, Some(_)) => Err(Reason::Unsupported),
            (Add::Exclusive, _, _) => Err(Reason::Exists),
            (_, _, None) => Ok(()),
            (_, Some(old), Some(new)) => {
                check_base(new)?;
                if (old.hook, old.priority) != (new.hook, new.priority) {
                    return Err(Reason::Unsupported);
                }
                if old.kind != new.kind {
                    return Err(Reason::Exists);
                }
                old.policy = new.policy;
                Ok(())
            }
        };
    }
    if let Some(base) = &chain.base {
        check_base(base)?;
        state.order.push(chain.name.clone());
    }
    state.next_handle();
    state.chains.insert(chain.name.clone(), ChainState { chain: chain.clone(), rules: Vec::new() });
    Ok(())
}

fn check_base(base: &Base) -> Result<(), Reason> {
    let possible = match base.kind {
        ChainType::Filter => true,
        ChainType::Nat => base.hook != Hook::Forward && base.priority > CONNTRACK_PRIORITY,
        ChainType::Route => base.hook == Hook::Output,
    };
    if possible { Ok(()) } else { Err(Reason::Unsupported) }
}

/// Deleting a chain deletes its rules; what must not be is a jump to it, not even its own.
fn delete_chain(state: &mut State, name: &str) -> Result<(), Reason> {
    if !state.chains.contains_key(name) {
        return Err(Reason::Missing);
    }
    let by_rule = state.rules().flat_map(|rule| &rule.exprs).any(|expr| match expr {
        Expr::Verdict(verdict) => leads_to(verdict, name),
        _ => false,
    });
    let verdict_maps = state.sets.values().filter(|set| set.set.data == Some(MapData::Verdict));
    let by_element = verdict_maps.flat_map(|set| set.elements.values()).any(|content| match &content.data {
        Some(Data::Verdict(verdict)) => leads_to(verdict, name),
        _ => false,
    });
    if by_rule || by_element {
        return Err(Reason::InUse);
    }
    state.chains.remove(name);
    state.order.retain(|base| base != name);
    Ok(())
}

fn leads_to(verdict: &Verdict, name: &str) -> bool {
    matches!(verdict, Verdict::Jump(chain) | Verdict::Goto(chain) if chain == name)
}

fn add_rule(state: &mut State, table: &Table, chain: &str, place: Place, rule: &Rule) -> Result<(), Reason> {
    let found = state.chains.get(chain).ok_or(Reason::Missing)?;
    let at = match place {
        Place::Last => found.rules.len(),
        Place::First => 0,
        Place::After(at) => position(found, at)? + 1,
        Place::Before(at) | Place::Instead(at) => position(found, at)?,
    };
    check::rule(table.family, state, rule)?;
    let handle = state.next_handle();
    let rules = &mut state.chains.get_mut(chain).ok_or(Reason::Missing)?.rules;
    let rule = Rule { handle: Some(handle), ..rule.clone() };
    match place {
        Place::Instead(_) => rules[at] = rule,
        _ => rules.insert(at, rule),
    }
    Ok(())
}

fn position(chain: &ChainState, handle: Handle) -> Result<usize, Reason> {
    chain.rules.iter().position(|rule| rule.handle == Some(handle)).ok_or(Reason::Missing)
}

fn add_set(state: &mut State, add: Add, set: &Set) -> Result<(), Reason> {
    if set.timeout.is_some() && !set.flags.timeout {
        return Err(Reason::Invalid);
    }
    if set.flags.interval && set.flags.dynamic {
        return Err(Reason::Unsupported);
    }
    if let Some(present) = state.sets.get_mut(&set.name) {
        let old = &mut present.set;
        if add == Add::Exclusive || (&old.key, &old.data, old.flags) != (&set.key, &set.data, set.flags) {
            return Err(Reason::Exists);
        }
        // Adding a set again sets its default timeout and, if given, its size.
        old.timeout = set.timeout;
        old.size = set.size.or(old.size);
        return Ok(());
    }
    state.next_handle();
    state.sets.insert(set.name.clone(), SetState { set: set.clone(), elements: Arc::default() });
    Ok(())
}

fn delete_set(state: &mut State, name: &str) -> Result<(), Reason> {
    if !state.sets.contains_key(name) {
        return Err(Reason::Missing);
    }
    let used = state.rules().flat_map(|rule| &rule.exprs).any(|expr| match expr {
        Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => set == name,
        _ => false,
    });
    if used {
        return Err(Reason::InUse);
    }
    state.sets.remove(name);
    Ok(())
}

fn add_element(state: &mut State, add: Add, set: &str, element: &Element) -> Result<(), Reason> {
    let found = state.sets.get(set).ok_or(Reason::Missing)?;
    if element.content.timeout.is_some() && !found.set.flags.timeout {
        return Err(Reason::Invalid);
    }
    check_key(&found.set, &element.key)?;
    check_data(state, &found.set, &element.content)?;
    let found = state.sets.get_mut(set).ok_or(Reason::Missing)?;
    let default = found.set.timeout;
    let mut content = element.content.clone();
    if found.set.flags.timeout {
        content.expires = content.expires.or(content.timeout).or(default);
        // The kernel doesn't tell a timeout apart that is the set's own.
        content.timeout = content.timeout.filter(|timeout| Some(*timeout) != default);
    }
    let elements = Arc::make_mut(&mut found.elements);
    if let Some(present) = elements.get_mut(&element.key) {
        return match add {
            Add::Exclusive => Err(Reason::Exists),
            Add::IfAbsent if present.data != content.data => Err(Reason::Exists),
            Add::IfAbsent => {
                // Since kernel 6.12 adding an element again renews its life.
                if element.content.timeout.is_some() || default.is_some() {
                    present.timeout = content.timeout;
                    present.expires = content.expires;
                }
                Ok(())
            }
        };
    }
    if found.set.flags.interval && overlaps(elements, &element.key, &found.set) {
        return Err(Reason::Exists);
    }
    if found.set.size.is_some_and(|size| elements.len() >= size as usize) {
        return Err(Reason::Full);
    }
    elements.insert(element.key.clone(), content);
    Ok(())
}

fn check_key(set: &Set, key: &Key) -> Result<(), Reason> {
    let wrong_len = set.key_len().is_some_and(|len| key.start.len() != len || key.last().len() != len);
    let range_outside = key.end.is_some() && !set.flags.interval;
    if wrong_len || range_outside || key.start > *key.last() { Err(Reason::Invalid) } else { Ok(()) }
}

fn check_data(state: &State, set: &Set, content: &Content) -> Result<(), Reason> {
    match (&set.data, &content.data) {
        (None, None) => Ok(()),
        (Some(MapData::Verdict), Some(Data::Verdict(verdict))) => check::verdict(state, verdict),
        (Some(MapData::Value(types)), Some(Data::Value(value)))
            if types_len(types).is_none_or(|len| value.len() == len) =>
        {
            Ok(())
        }
        _ => Err(Reason::Invalid),
    }
}

/// Whether a range shares keys with another: in a concatenation, every field's ranges must meet.
fn overlaps(elements: &BTreeMap<Key, Content>, key: &Key, set: &Set) -> bool {
    if !set.is_concatenation() {
        // Ranges that don't overlap end in the order they start: only the last one that starts before our end can.
        let behind = Key { start: key.last().clone(), end: Some(Value::new([0xff; 64])) };
        return elements.range(..=behind).next_back().is_some_and(|(other, _)| *other.last() >= key.start);
    }
    elements.keys().any(|other| {
        let mut at = 0;
        set.key.iter().all(|kind| {
            let end = at + kind.padded_len().unwrap_or(4);
            let field = |value: &Value| value.as_bytes().get(at..end).map(<[u8]>::to_vec);
            let meets = field(&other.start) <= field(key.last()) && field(&key.start) <= field(other.last());
            at = end;
            meets
        })
    })
}

fn delete_elements(state: &mut State, set: &Set, elements: &[Element]) -> Result<(), Reason> {
    let found = state.sets.get_mut(&set.name).ok_or(Reason::Missing)?;
    let present = Arc::make_mut(&mut found.elements);
    for element in elements {
        check_key(&found.set, &element.key)?;
        if present.remove(&element.key).is_none() {
            return Err(Reason::Missing);
        }
    }
    Ok(())
}
