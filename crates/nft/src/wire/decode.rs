//! Objects from the kernel's messages.

use std::collections::BTreeMap;
use std::time::Duration;

use netlink::nfnetlink::NF_HEADER_LEN;
use netlink::{Attribute, Attributes, Message, ParseError};

use super::{DATA_TYPE_VERDICT, DATA_VALUE, DATA_VERDICT, UDATA_COMMENT, decode_expr, elem, set_flag};
use crate::expr::Verdict;
use crate::object::{
    Base, Chain, ChainType, Content, Data, Family, Handle, Hook, Key, MapData, Policy, Rule, Set, SetFlags,
};
use crate::value::{Value, types_from_id};

/// One half of an interval, or a whole element, as the kernel lists them.
pub(crate) struct RawElement {
    key: Value,
    key_end: Option<Value>,
    is_end: bool,
    content: Content,
}

/// The table an object is in: attribute 1 of all of them.
pub(crate) fn table_name<'a>(message: &Message<'a>) -> Result<&'a str, ParseError> {
    message.attributes(NF_HEADER_LEN)?.require(1, "object")?.text()
}

pub(crate) fn read_chain(message: &Message<'_>) -> Result<Chain, ParseError> {
    let a = message.attributes(NF_HEADER_LEN)?;
    let name = a.require(3, "chain")?.text()?.to_owned();
    let Some(hook) = a.find(4)? else { return Ok(Chain { name, base: None }) };
    let hook = hook.nested();
    let number = hook.require(1, "hook")?.be32()?;
    let kind = match a.find(7)? {
        Some(kind) => kind.text()?,
        None => "filter",
    };
    let base = Base {
        kind: ChainType::from_name(kind).ok_or(ParseError::Unknown { what: "chain type", value: 0 })?,
        hook: Hook::from_number(number).ok_or(ParseError::Unknown { what: "hook", value: number })?,
        priority: i32::from_be_bytes(hook.require(2, "hook")?.array()?),
        policy: match a.find(5)? {
            Some(policy) if policy.be32()? == 0 => Policy::Drop,
            _ => Policy::Accept,
        },
    };
    Ok(Chain { name, base: Some(base) })
}

/// A rule and the chain it is in.
pub(crate) fn read_rule(family: Family, message: &Message<'_>) -> Result<(String, Rule), ParseError> {
    let a = message.attributes(NF_HEADER_LEN)?;
    let chain = a.require(2, "rule")?.text()?.to_owned();
    let mut rule = Rule::new();
    rule.handle = Some(Handle(a.require(3, "rule")?.be64()?));
    if let Some(expressions) = a.find(4)? {
        for element in expressions.nested() {
            rule.exprs.push(decode_expr::read(family, &element?)?);
        }
    }
    rule.comment = a.find(7)?.and_then(|data| read_comment(data.payload));
    Ok((chain, rule))
}

/// A set; `None` for anonymous ones and those that hold objects, which we never make.
pub(crate) fn read_set(message: &Message<'_>) -> Result<Set, ParseError> {
    let a = message.attributes(NF_HEADER_LEN)?;
    let flags = match a.find(3)? {
        Some(flags) => flags.be32()?,
        None => 0,
    };
    let data = match a.find(6)? {
        Some(kind) if kind.be32()? == DATA_TYPE_VERDICT => Some(MapData::Verdict),
        Some(kind) => Some(MapData::Value(types_from_id(kind.be32()?))),
        None => None,
    };
    let size = match a.find(9)? {
        Some(desc) => desc.nested().find(1)?.map(|size| size.be32()).transpose()?,
        None => None,
    };
    let timeout = a.find(11)?.map(|timeout| timeout.be64()).transpose()?.map(Duration::from_millis);
    Ok(Set {
        name: a.require(2, "set")?.text()?.to_owned(),
        key: types_from_id(a.require(4, "set")?.be32()?),
        data,
        flags: SetFlags {
            interval: flags & set_flag::INTERVAL != 0,
            timeout: flags & set_flag::TIMEOUT != 0,
            dynamic: flags & set_flag::EVAL != 0,
            constant: flags & set_flag::CONSTANT != 0,
        },
        size,
        timeout,
    })
}

pub(crate) fn read_elements(message: &Message<'_>, into: &mut Vec<RawElement>) -> Result<(), ParseError> {
    let a = message.attributes(NF_HEADER_LEN)?;
    let Some(list) = a.find(3)? else { return Ok(()) };
    for element in list.nested() {
        let a = element?.nested();
        // The catch-all element has no key; we never make one.
        let Some(key) = a.find(elem::KEY)? else { continue };
        into.push(RawElement {
            key: read_value(&key)?,
            key_end: a.find(elem::KEY_END)?.map(|end| read_value(&end)).transpose()?,
            is_end: a.find(elem::FLAGS)?.map(|f| f.be32()).transpose()?.unwrap_or(0) & elem::FLAG_INTERVAL_END != 0,
            content: read_content(&a)?,
        });
    }
    Ok(())
}

/// Joins the halves of intervals.
pub(crate) fn join_elements(set: &Set, mut raw: Vec<RawElement>) -> BTreeMap<Key, Content> {
    if !set.flags.interval || set.is_concatenation() {
        let keyed = raw.into_iter().map(|element| {
            let end = element.key_end.filter(|end| *end != element.key);
            (Key { start: element.key, end }, element.content)
        });
        return keyed.collect();
    }
    // Where one interval ends and the next starts, the end comes first.
    raw.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
    let mut joined = BTreeMap::new();
    let mut open: Option<(Value, Content)> = None;
    for element in raw {
        if let Some((start, content)) = open.take()
            && let Some(last) = element.key.predecessor()
        {
            joined.insert(Key::range(start, last), content);
        }
        if !element.is_end {
            open = Some((element.key, element.content));
        }
    }
    if let Some((start, content)) = open {
        let last = Value::new(vec![0xff; start.len()]);
        joined.insert(Key::range(start, last), content);
    }
    joined
}

pub(crate) fn read_value(attribute: &Attribute<'_>) -> Result<Value, ParseError> {
    attribute.nested().require(DATA_VALUE, "data").map(|value| Value::new(value.payload))
}

pub(crate) fn read_verdict(attribute: &Attribute<'_>) -> Result<Verdict, ParseError> {
    let a = attribute.nested();
    let code = a.require(1, "verdict")?.be32()?;
    let chain = || a.require(2, "verdict").and_then(|chain| chain.text()).map(str::to_owned);
    Ok(match code.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return Err(ParseError::Unknown { what: "verdict", value: code }),
    })
}

fn read_content(a: &Attributes<'_>) -> Result<Content, ParseError> {
    let data = match a.find(elem::DATA)? {
        Some(data) => Some(match data.nested().find(DATA_VERDICT)? {
            Some(verdict) => Data::Verdict(read_verdict(&verdict)?),
            None => Data::Value(read_value(&data)?),
        }),
        None => None,
    };
    let span = |kind| -> Result<Option<Duration>, ParseError> {
        Ok(a.find(kind)?.map(|span| span.be64()).transpose()?.map(Duration::from_millis))
    };
    Ok(Content {
        data,
        timeout: span(elem::TIMEOUT)?,
        expires: span(elem::EXPIRATION)?,
        comment: a.find(elem::USERDATA)?.and_then(|data| read_comment(data.payload)),
    })
}

/// The comment among a rule's or element's user data.
fn read_comment(mut data: &[u8]) -> Option<String> {
    while let [tag, len, rest @ ..] = data {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *tag == UDATA_COMMENT {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
            return String::from_utf8(value[..end].to_vec()).ok();
        }
        data = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use netlink::Builder;
    use proptest::prelude::*;

    use super::*;
    use crate::object::Element;
    use crate::wire::encode;
    use crate::wire::foreign::understand;

    fn read_all(payload: &[u8]) {
        let _ = understand(&Message { kind: 0, flags: 0, sequence: 0, payload });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            read_all(&bytes);
        }

        /// Bytes that look right for longer than random ones do.
        #[test]
        fn any_attributes_are_read_without_panic(
            attributes in proptest::collection::vec((0u16..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
            name in "[a-z]{2,9}",
        ) {
            let mut builder = Builder::default();
            builder.raw(&[0; 4]);
            for (kind, payload) in &attributes {
                builder.bytes(*kind, payload);
            }
            for kind in [3, 4] {
                builder.nested(kind, |m| m.nested(1, |m| {
                    m.text(1, &name);
                    m.nested(2, |m| attributes.iter().for_each(|(kind, payload)| m.bytes(*kind, payload)));
                }));
            }
            let bytes = builder.finish().unwrap();
            read_all(&bytes);
        }

        #[test]
        fn intervals_are_joined_as_they_were_split(starts in proptest::collection::btree_set(0u32..2000, 1..20)) {
            let set = Set::set("s", [crate::DataType::Mark]).interval();
            let starts: Vec<u32> = starts.into_iter().collect();
            let key = |(at, start): (usize, &u32)| {
                let next = starts.get(at + 1).copied().unwrap_or(u32::MAX);
                // Every other interval reaches to the next one; the last one to the end of all.
                let last = if at % 2 == 0 && next != u32::MAX { *start } else { next.saturating_sub(u32::from(next != u32::MAX)) };
                Key::range(Value::concat().mark_be(*start), Value::concat().mark_be(last))
            };
            let keys: Vec<Key> = starts.iter().enumerate().map(key).collect();
            let mut builder = Builder::default();
            builder.raw(&[0; 4]);
            builder.nested(3, |m| keys.iter().rev().for_each(|key| encode::write_element(m, &set, &Element::new(key.clone()))));
            let bytes = builder.finish().unwrap();
            let mut raw = Vec::new();
            read_elements(&Message { kind: 0, flags: 0, sequence: 0, payload: &bytes }, &mut raw).unwrap();
            let joined: Vec<Key> = join_elements(&set, raw).into_keys().collect();
            prop_assert_eq!(joined, keys);
        }
    }
}
