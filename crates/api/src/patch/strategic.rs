//! Strategic merge: the rules by which a patch's maps and lists join the original's. Not responsible for parsing.
//!
//! The directives, in the order they act on a map: `$patch` (replace: the patch is the map; delete: the map is emptied),
//! `$retainKeys` (drop the original's other keys), `$setElementOrder/x` (after merging x, order it),
//! `$deleteFromPrimitiveList/x`, then the keys themselves, null deleting.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Definition, Field, Kind};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// `definition` is absent inside values that have no schema of their own.
pub(super) fn merge_map(
    mut original: Object,
    mut patch: Object,
    definition: Option<&'static Definition>,
) -> Result<Object, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => return Ok(patch),
        Some(Value::String(directive)) if directive == "delete" => return Ok(Object::new()),
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(directive) => return Err(PatchError::UnknownDirective { directive, patch: Value::Object(patch) }),
    }
    retain_keys(&mut original, &mut patch)?;
    let ordered: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for key in ordered {
        set_order(&mut original, &mut patch, &key, definition)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = definition.and_then(|d| d.field(&key));
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(original)), Value::Object(patch)) => Some(merge_object(original, patch, field)?),
            (Some(Value::Array(original)), Value::Array(patch)) if merges(field) => {
                Some(merge_list(original, patch, field)?)
            }
            (_, value) => without_directives(value),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// A map field: replaced when its strategy says so, otherwise merged by its own definition.
fn merge_object(original: Object, patch: Object, field: Option<&'static Field>) -> Result<Value, PatchError> {
    if field.is_some_and(|f| f.patch_strategy.iter().any(|s| s == "replace")) {
        return Ok(Value::Object(patch));
    }
    // A map from strings to messages merges entry by entry: the map itself has no definition.
    let definition = field.filter(|f| matches!(f.kind, Kind::Message(_))).and_then(|f| f.kind.message());
    merge_map(original, patch, definition).map(Value::Object)
}

/// Whether a list merges (`patchStrategy: merge`); others are replaced.
fn merges(field: Option<&Field>) -> bool {
    field.is_some_and(|f| f.patch_strategy.iter().any(|s| s == "merge"))
}

/// Drops the original's keys that `$retainKeys` doesn't list.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return Err(PatchError::RetainKeys) };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| retained.contains(key);
    let stray = patch.iter().any(|(key, value)| !value.is_null() && !key.starts_with('$') && !listed(key));
    if stray {
        return Err(PatchError::RetainKeys);
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Merges list `x` and orders it by `$setElementOrder/x`.
fn set_order(
    original: &mut Object,
    patch: &mut Object,
    directive: &str,
    definition: Option<&'static Definition>,
) -> Result<(), PatchError> {
    let name = directive.trim_start_matches(SET_ORDER).to_owned();
    let order = list_of(patch.remove(directive))?;
    let field = definition.and_then(|d| d.field(&name));
    let key = field.and_then(|f| f.patch_merge_key.as_deref());
    let before = original.get(&name).cloned();
    let patched = patch.remove(&name);
    if let Some(Value::Array(patched)) = &patched {
        check_order(patched, &order, key)?;
    }
    let merged = match (original.remove(&name), patched) {
        (None, None) => return Ok(()),
        (Some(kept), None) => kept,
        (None, Some(added)) => match without_directives(added) {
            Some(added) => added,
            None => return Ok(()),
        },
        (Some(original), Some(patched)) => {
            let (original, patched) = (list_of(Some(original))?, list_of(Some(patched))?);
            if merges(field) { merge_list(original, patched, field)? } else { Value::Array(patched) }
        }
    };
    let before = list_of(before.or(Some(Value::Array(Vec::new()))))?;
    let merged = list_of(Some(merged))?;
    check_keys(&merged, key)?;
    let merged = in_order(merged, &order, &before, key);
    original.insert(name, Value::Array(merged));
    Ok(())
}

/// The patch's elements must all be in the order list, and in that order.
fn check_order(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut from = 0;
    for element in patched.iter().filter(|e| e.get(DIRECTIVE).is_none()) {
        match order[from..].iter().position(|o| same(o, element, key)) {
            Some(at) => from += at + 1,
            None => {
                return Err(PatchError::ElementOrder {
                    patch: Value::Array(patched.to_vec()),
                    order: Value::Array(order.to_vec()),
                });
            }
        }
    }
    Ok(())
}

fn delete_primitives(original: &mut Object, name: &str, deleted: &Value) -> Result<(), PatchError> {
    let Value::Array(deleted) = deleted else { return Err(PatchError::PrimitiveList) };
    let deleted: HashSet<&Value> = deleted.iter().collect();
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|element| !deleted.contains(element));
    }
    Ok(())
}

/// A list with `patchStrategy: merge`: scalars form a set, maps are found by their merge key.
fn merge_list(original: Vec<Value>, patch: Vec<Value>, field: Option<&'static Field>) -> Result<Value, PatchError> {
    let objects = original.iter().chain(&patch).any(Value::is_object);
    if !objects {
        let mut seen = HashSet::new();
        let merged = original.iter().chain(&patch).filter(|element| seen.insert(*element)).cloned().collect();
        return Ok(Value::Array(in_order(merged, &patch, &original, None)));
    }
    let Some(key) = field.and_then(|f| f.patch_merge_key.as_deref()) else {
        // Without a key there is nothing to merge by.
        return Ok(Value::Array(patch));
    };
    let before = original.clone();
    let (mut merged, patch) = special_elements(original, patch, key)?;
    let mut places: HashMap<Value, usize> =
        places(&merged, Some(key)).into_iter().map(|(key, place)| (key.clone(), place)).collect();
    for element in &patch {
        merge_element(&mut merged, &mut places, element, key, field)?;
    }
    check_keys(&merged, Some(key))?;
    Ok(Value::Array(in_order(merged, &patch, &before, Some(key))))
}

/// Without their merge key, elements can't be told apart.
fn check_keys(list: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let Some(key) = key else { return Ok(()) };
    match list.iter().find(|element| element.get(key).is_none()) {
        Some(element) => Err(PatchError::NoMergeKey { element: element.clone(), key: key.to_owned() }),
        None => Ok(()),
    }
}

/// Merges one element into the element with the same key, or adds it; `places` says where each key is.
fn merge_element(
    merged: &mut Vec<Value>,
    places: &mut HashMap<Value, usize>,
    element: &Value,
    key: &str,
    field: Option<&'static Field>,
) -> Result<(), PatchError> {
    let Value::Object(patch) = element else {
        return Err(PatchError::WrongType { expected: "map", found: "scalar" });
    };
    let Some(identity) = patch.get(key) else {
        return Err(PatchError::NoMergeKey { element: element.clone(), key: key.to_owned() });
    };
    match places.get(identity).copied() {
        Some(at) => {
            if let Value::Object(original) = merged[at].take() {
                let definition = field.and_then(|f| f.kind.message());
                merged[at] = Value::Object(merge_map(original, patch.clone(), definition)?);
            }
        }
        None => {
            if let Some(added) = without_directives(element.clone()) {
                places.insert(identity.clone(), merged.len());
                merged.push(added);
            }
        }
    }
    Ok(())
}

/// Carries out the list elements that are directives: `{$patch: delete, key: x}` and `{$patch: replace}`.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut deleted = HashSet::new();
    let mut replace = false;
    for element in patch {
        match element.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(element),
            Some("delete") => match element.get(key) {
                Some(identity) => drop(deleted.insert(identity.clone())),
                None => return Err(PatchError::NoMergeKey { element, key: key.to_owned() }),
            },
            Some("replace") => replace = true,
            Some("merge") => return Err(PatchError::MergeInList),
            Some(_) => {
                let directive = element[DIRECTIVE].clone();
                return Err(PatchError::UnknownDirective { directive, patch: element });
            }
        }
    }
    original.retain(|element| !replace && element.get(key).is_none_or(|identity| !deleted.contains(identity)));
    Ok((original, plain))
}

/// Elements named in `order` come in that order; the others keep their places among them as far as `before` had both.
fn in_order(list: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let (order, before) = (places(order, key), places(before, key));
    let index = |places: &HashMap<&Value, usize>, element: &Value| places.get(identity(element, key)?).copied();
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|element| index(&order, element).is_some());
    named.sort_by_cached_key(|element| index(&order, element));
    others.sort_by_cached_key(|element| index(&before, element).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(next), Some(other)) = (named.peek(), others.peek()) {
        let earlier = match (index(&before, other), index(&before, next)) {
            (Some(other), Some(next)) => other < next,
            _ => false,
        };
        out.extend(if earlier { others.next() } else { named.next() });
    }
    out.extend(named);
    out.extend(others);
    out
}

/// What tells an element from the others of its list: its merge key, or all of it.
fn identity<'v>(element: &'v Value, key: Option<&str>) -> Option<&'v Value> {
    match key {
        Some(key) => element.get(key),
        None => Some(element),
    }
}

/// Where each element is first, so that long lists aren't searched for each of their elements.
fn places<'v>(list: &'v [Value], key: Option<&str>) -> HashMap<&'v Value, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (place, element) in list.iter().enumerate() {
        if let Some(identity) = identity(element, key) {
            places.entry(identity).or_insert(place);
        }
    }
    places
}

/// Whether two elements are the same one.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    identity(a, key).is_some() && identity(a, key) == identity(b, key)
}

/// A value that has nothing to merge with: directives and nulls in it have done their work.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            // Upstream drops the whole map, `$patch: replace` with its contents included.
            if fields.contains_key(DIRECTIVE) {
                return None;
            }
            let kept = fields.into_iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
            Some(Value::Object(kept.filter_map(|(key, value)| Some((key, without_directives(value)?))).collect()))
        }
        Value::Array(elements) => Some(Value::Array(elements.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_PRIMITIVES)
}

fn list_of(value: Option<Value>) -> Result<Vec<Value>, PatchError> {
    match value {
        Some(Value::Array(list)) => Ok(list),
        Some(Value::Object(_)) => Err(PatchError::WrongType { expected: "slice", found: "map" }),
        _ => Err(PatchError::WrongType { expected: "slice", found: "scalar" }),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
