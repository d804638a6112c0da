//! `rewrite edns0 local|nsid|subnet append|replace|set|unset …`

use std::fmt::Display;

use serde::Serialize;

use crate::Stanza;
use crate::reader::Reader;
use crate::token::Token;

/// An option of EDNS in queries; with `revert` the response has what the query had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edns0 {
    Local {
        action: EdnsAction,
        code: u16,
        data: Data,
        revert: bool,
    },
    Nsid {
        action: EdnsAction,
        revert: bool,
    },
    /// RFC 7871: how many bits of the client's address are told.
    Subnet {
        action: EdnsAction,
        ipv4: u8,
        ipv6: u8,
        revert: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EdnsAction {
    Append,
    Replace,
    Set,
    Unset,
}

/// What an option of local use holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    Text(String),
    Octets(Vec<u8>),
    /// Of the query: `{qname}`, `{client_ip}`…, or a label of metadata.
    Variable(String),
}

const ACTIONS: &[(&str, EdnsAction)] = &[
    ("append", EdnsAction::Append),
    ("replace", EdnsAction::Replace),
    ("set", EdnsAction::Set),
    ("unset", EdnsAction::Unset),
];
const VARIABLES: &[&str] =
    &["{qname}", "{qtype}", "{client_ip}", "{client_port}", "{protocol}", "{server_ip}", "{server_port}"];

impl Edns0 {
    pub(super) fn read(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Self> {
        let [kind, action_word, rest @ ..] = words else {
            reader.missing("local, nsid or subnet, and append, replace, set or unset");
            return None;
        };
        let Some((_, action)) = ACTIONS.iter().find(|(name, _)| *name == action_word.text.to_lowercase()) else {
            return reader.bad(action_word, "append, replace, set or unset");
        };
        let (action, unset) = (*action, *action == EdnsAction::Unset);
        let (revert, rest) = match rest.split_last() {
            Some((last, rest)) if last.text == "revert" && !unset => (true, rest),
            _ => (false, rest),
        };
        match (kind.text.to_lowercase().as_str(), rest) {
            ("local", [code]) if unset => {
                let code = number(reader, code, 65535)?;
                Some(Edns0::Local { action, code, data: Data::Text(String::new()), revert })
            }
            ("local", [code, data]) if !unset => {
                let code = number(reader, code, 65535)?;
                Some(Edns0::Local { action, code, data: Data::read(reader, data)?, revert })
            }
            ("local", _) if unset => refuse(reader, words, "a code"),
            ("local", _) => refuse(reader, words, "a code, its data, and perhaps revert"),
            ("nsid", []) => Some(Edns0::Nsid { action, revert }),
            ("nsid", _) => refuse(reader, words, "nothing but perhaps revert"),
            ("subnet", []) if unset => Some(Edns0::Subnet { action, ipv4: 0, ipv6: 0, revert }),
            ("subnet", [ipv4, ipv6]) if !unset => {
                let (ipv4, ipv6) = (number(reader, ipv4, 32), number(reader, ipv6, 128));
                Some(Edns0::Subnet { action, ipv4: ipv4? as u8, ipv6: ipv6? as u8, revert })
            }
            ("subnet", _) if unset => refuse(reader, words, "nothing"),
            ("subnet", _) => refuse(reader, words, "the bits of IPv4 and of IPv6 addresses, and perhaps revert"),
            _ => reader.bad(kind, "local, nsid or subnet"),
        }
    }

    pub(super) fn write(&self, stanza: Stanza) -> Stanza {
        let name =
            |action: &EdnsAction| ACTIONS.iter().find(|(_, known)| known == action).map_or("set", |(name, _)| name);
        let (stanza, revert) = match self {
            Edns0::Local { action: EdnsAction::Unset, code, .. } => {
                (stanza.with("local").with("unset").with(code), &false)
            }
            Edns0::Local { action, code, data, revert } => {
                (stanza.with("local").with(name(action)).with(code).with(data), revert)
            }
            Edns0::Nsid { action, revert } => (stanza.with("nsid").with(name(action)), revert),
            Edns0::Subnet { action: EdnsAction::Unset, .. } => (stanza.with("subnet").with("unset"), &false),
            Edns0::Subnet { action, ipv4, ipv6, revert } => {
                (stanza.with("subnet").with(name(action)).with(ipv4).with(ipv6), revert)
            }
        };
        stanza.with_all(revert.then_some("revert"))
    }
}

impl Data {
    fn read(reader: &mut Reader<'_>, token: &Token) -> Option<Self> {
        let text = &token.text;
        if text.starts_with('{') && text.ends_with('}') {
            let label = text.trim_start_matches('{').trim_end_matches('}');
            let is_label = label.split_once('/').is_some_and(|(space, name)| !space.is_empty() && !name.is_empty());
            return match VARIABLES.contains(&text.as_str()) || is_label {
                true => Some(Data::Variable(text.clone())),
                false => reader.bad(token, format!("a variable: {}", VARIABLES.join(", "))),
            };
        }
        let Some(hexadecimal) = text.strip_prefix("0x") else { return Some(Data::Text(text.clone())) };
        let octets = hexadecimal.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2 && !pair.starts_with('+'))?;
            u8::from_str_radix(pair, 16).ok()
        });
        match octets.collect() {
            Some(octets) => Some(Data::Octets(octets)),
            None => reader.bad(token, "octets of two hexadecimal digits each after 0x, or other text"),
        }
    }
}

impl Display for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Data::Text(text) | Data::Variable(text) => f.write_str(text),
            Data::Octets(octets) => {
                write!(f, "0x")?;
                octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }
    }
}

fn refuse<T>(reader: &mut Reader<'_>, words: &[&Token], expected: &str) -> Option<T> {
    let line: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let line = Token { text: line.join(" "), place: words.first()?.place.clone() };
    reader.bad(&line, format!("a rule of EDNS: the action is followed by {expected}"))
}

/// A number as Go's literals are: decimal, `0x`, `0o` or `0`, `0b`.
fn number(reader: &mut Reader<'_>, token: &Token, most: u16) -> Option<u16> {
    let text = token.text.to_lowercase();
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x', ..] => (16, &text[2..]),
        [b'0', b'o', ..] => (8, &text[2..]),
        [b'0', b'b', ..] => (2, &text[2..]),
        [b'0', _, ..] => (8, &text[1..]),
        _ => (10, text.as_str()),
    };
    let found = if digits.starts_with('+') { None } else { u16::from_str_radix(digits, radix).ok() };
    match found.filter(|found| *found <= most) {
        Some(found) => Some(found),
        None => reader.bad(token, format!("a number from 0 to {most}")),
    }
}
