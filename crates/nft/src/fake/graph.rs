//! What the kernel checks of a table as a whole: jumps end, and statements stand where they can work.

use std::collections::BTreeSet;

use super::State;
use crate::error::Reason;
use crate::expr::{Destination, Expr, NatKind, Verdict};
use crate::object::{Base, ChainType, Data, Hook};

/// How deep chains may nest.
const STACK: usize = 16;

/// Follows every base chain.
pub(super) fn validate(state: &State) -> Result<(), Reason> {
    for name in &state.order {
        let Some(base) = state.chains.get(name).and_then(|chain| chain.chain.base.as_ref()) else { continue };
        let mut done = BTreeSet::new();
        walk(state, name, base, 0, &mut done)?;
    }
    // Loops among chains that nothing reaches are accepted, as by the kernel.
    Ok(())
}

fn walk<'a>(
    state: &'a State,
    name: &'a str,
    base: &Base,
    depth: usize,
    done: &mut BTreeSet<(&'a str, usize)>,
) -> Result<(), Reason> {
    if depth >= STACK {
        return Err(Reason::Loop);
    }
    if !done.insert((name, depth)) {
        return Ok(());
    }
    let Some(chain) = state.chains.get(name) else { return Ok(()) };
    for expr in chain.rules.iter().flat_map(|rule| &rule.exprs) {
        check_place(base, expr)?;
        for target in targets(state, expr) {
            walk(state, target, base, depth + 1, done)?;
        }
    }
    Ok(())
}

/// The chains an expression may lead to.
fn targets<'a>(state: &'a State, expr: &'a Expr) -> Vec<&'a str> {
    match expr {
        Expr::Verdict(verdict) => target(verdict).into_iter().collect(),
        Expr::Lookup { set, dest: Some(Destination::Verdict), .. } => {
            let elements = state.sets.get(set).map(|set| set.elements.values()).into_iter().flatten();
            let found: BTreeSet<&str> = elements
                .filter_map(|content| match &content.data {
                    Some(Data::Verdict(verdict)) => target(verdict),
                    _ => None,
                })
                .collect();
            found.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn target(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

fn check_place(base: &Base, expr: &Expr) -> Result<(), Reason> {
    let (nat_only, hooks): (bool, &[Hook]) = match expr {
        Expr::Nat { kind: NatKind::Destination, .. } | Expr::Redirect { .. } => {
            (true, &[Hook::Prerouting, Hook::Output])
        }
        Expr::Nat { kind: NatKind::Source, .. } => (true, &[Hook::Postrouting, Hook::Input]),
        Expr::Masquerade { .. } => (true, &[Hook::Postrouting]),
        Expr::Tproxy { .. } => (false, &[Hook::Prerouting]),
        Expr::Reject(_) => (false, &[Hook::Input, Hook::Forward, Hook::Output, Hook::Prerouting]),
        _ => return Ok(()),
    };
    let fits = (!nat_only || base.kind == ChainType::Nat) && hooks.contains(&base.hook);
    if fits { Ok(()) } else { Err(Reason::Unsupported) }
}
