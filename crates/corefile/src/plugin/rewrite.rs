//! `rewrite [continue|stop] KIND …`, on one line or in a block: what is asked or answered is changed. Kinds: `name`, `type`,
//! `class`, `edns0`, `ttl`, `cname` and `rcode`; names are matched `exact`ly by default, or by `prefix`, `suffix`,
//! `substring` or `regex`.

mod edns0;
mod name;

use std::fmt::Display;

use serde::Serialize;

pub use self::edns0::{Data, Edns0, EdnsAction};
pub use self::name::{Answer, NameRule, Part};
use super::Settings;
use crate::problem::Fault;
use crate::reader::Reader;
use crate::token::Token;
use crate::zone::Zone;
use crate::{Pattern, Rcode, RecordClass, RecordType, Stanza};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Whether the rules behind are looked at when this one did something.
    pub goes_on: bool,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Name(NameRule),
    Type {
        from: RecordType,
        to: RecordType,
    },
    Class {
        from: RecordClass,
        to: RecordClass,
    },
    Edns0(Edns0),
    /// TTLs of responses, brought between two bounds.
    Ttl {
        names: Names,
        least: u32,
        most: u32,
    },
    /// Targets of CNAMEs in responses. Both sides are lower case.
    Cname {
        names: Names,
        to: String,
    },
    Rcode {
        names: Names,
        from: Rcode,
        to: Rcode,
    },
}

/// Which names are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Pattern),
}

const KINDS: &str = "name, type, class, edns0, ttl, cname or rcode";
/// The most that a TTL without an upper bound gets.
const MOST_TTL: u32 = 2_147_483_647;

impl Settings for Vec<Rule> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut rules = Vec::new();
        while reader.stanza() {
            let mut words = reader.arguments();
            let block = words.len() < 2;
            while let Some(word) = reader.option() {
                words.push(word);
            }
            if !block && reader.present().text == "}" {
                let of = reader.of();
                reader.fault(reader.present(), Fault::Block { of });
            }
            rules.extend(rule(reader, &words));
        }
        rules
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |rule: &Rule| {
            let stanza = Stanza::new("rewrite").with(if rule.goes_on { "continue" } else { "stop" });
            match &rule.change {
                Change::Name(name) => name.write(stanza.with("name")),
                Change::Type { from, to } => stanza.with("type").with(from).with(to),
                Change::Class { from, to } => stanza.with("class").with(from).with(to),
                Change::Edns0(edns0) => edns0.write(stanza.with("edns0")),
                Change::Ttl { names, least, most } => {
                    names.write(stanza.with("ttl")).with(format_args!("{least}-{most}"))
                }
                Change::Cname { names, to } => names.write(stanza.with("cname")).with(to),
                Change::Rcode { names, from, to } => names.write(stanza.with("rcode")).with(from.0).with(to.0),
            }
        };
        self.iter().map(stanza).collect()
    }
}

impl Names {
    /// Of one or two words: how, and which.
    fn read(reader: &mut Reader<'_>, words: &[&Token], normalize: impl Fn(&str) -> String) -> Option<Self> {
        match words {
            [name] => Some(Names::Exact(Zone::of(&name.text).to_string())),
            [how, name] => Some(match how.text.to_lowercase().as_str() {
                "exact" => Names::Exact(Zone::of(&name.text).to_string()),
                "prefix" => Names::Prefix(normalize(&name.text)),
                "suffix" => Names::Suffix(normalize(&name.text)),
                "substring" => Names::Substring(normalize(&name.text)),
                "regex" => Names::Regex(reader.pattern(name)?),
                _ => return reader.bad(how, "exact, prefix, suffix, substring or regex"),
            }),
            _ => None,
        }
    }

    fn write(&self, stanza: Stanza) -> Stanza {
        let (how, name): (_, &dyn Display) = match self {
            Names::Exact(name) => ("exact", name),
            Names::Prefix(name) => ("prefix", name),
            Names::Suffix(name) => ("suffix", name),
            Names::Substring(name) => ("substring", name),
            Names::Regex(name) => ("regex", name),
        };
        stanza.with(how).with(name)
    }
}

fn rule(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Rule> {
    let expected = || format!("a kind of rule, {KINDS}, after continue or stop perhaps");
    let Some((first, rest)) = words.split_first() else {
        reader.missing(&expected());
        return None;
    };
    let (goes_on, kind, rest) = match first.text.to_lowercase().as_str() {
        mode @ ("continue" | "stop") => match rest.split_first() {
            Some((kind, rest)) => (mode == "continue", *kind, rest),
            None => {
                reader.missing(&expected());
                return None;
            }
        },
        _ => (false, *first, rest),
    };
    let change = match kind.text.to_lowercase().as_str() {
        "name" => Change::Name(NameRule::read(reader, rest)?),
        "type" => {
            let [from, to] = *pair(reader, rest, "two types of records")?;
            let mut read = |token: &Token| {
                let found = RecordType::parse(&token.text.to_uppercase());
                found.or_else(|| reader.bad(token, "a type of records such as AAAA"))
            };
            let (from, to) = (read(from), read(to));
            Change::Type { from: from?, to: to? }
        }
        "class" => {
            let [from, to] = *pair(reader, rest, "two classes")?;
            let mut read = |token: &Token| {
                let found = RecordClass::parse(&token.text.to_uppercase());
                found.or_else(|| reader.bad(token, "a class such as IN or CH"))
            };
            let (from, to) = (read(from), read(to));
            Change::Class { from: from?, to: to? }
        }
        "edns0" => Change::Edns0(Edns0::read(reader, rest)?),
        "ttl" => ttl(reader, rest)?,
        "cname" => cname(reader, rest)?,
        "rcode" => rcode(reader, rest)?,
        "answer" => return reader.bad(kind, "a kind of rule: answer comes after name and its arguments"),
        _ => return reader.bad(kind, format!("a kind of rule: {KINDS}")),
    };
    Some(Rule { goes_on, change })
}

fn pair<'a, 'b>(reader: &mut Reader<'_>, words: &'b [&'a Token], expected: &str) -> Option<&'b [&'a Token; 2]> {
    if let Some(further) = words.get(2) {
        reader.excess(further, expected);
        return None;
    }
    let pair = words.try_into().ok();
    if pair.is_none() {
        reader.missing(expected);
    }
    pair
}

/// Takes the last `N` words off; one or two, which say the names, are left.
fn split_names<'a, 'b, const N: usize>(
    reader: &mut Reader<'_>,
    words: &'b [&'a Token],
    expected: &str,
) -> Option<(&'b [&'a Token], &'b [&'a Token; N])> {
    match words.split_last_chunk::<N>() {
        Some((names, last)) if (1..=2).contains(&names.len()) => Some((names, last)),
        Some((names, _)) if names.len() > 2 => {
            reader.excess(words[N + 2], expected);
            None
        }
        _ => {
            reader.missing(expected);
            None
        }
    }
}

/// `[HOW] NAME TTL`, where a TTL is one number, or two with a dash between, of which one may be left out.
fn ttl(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Change> {
    let (names, [range]) =
        split_names::<1>(reader, words, "perhaps a kind of match, a name, and a TTL or a range of them")?;
    let number = |text: &str| if text.starts_with('+') { None } else { text.parse::<u32>().ok() };
    let bounds = match range.text.split_once('-') {
        None => number(&range.text).map(|ttl| (ttl, ttl)),
        Some(("", "")) => None,
        Some((least, most)) => {
            let least = if least.is_empty() { Some(0) } else { number(least) };
            let most = if most.is_empty() { Some(MOST_TTL) } else { number(most) };
            least.zip(most).filter(|(least, most)| least <= most)
        }
    };
    let Some((least, most)) = bounds else {
        return reader.bad(range, "a TTL in seconds, or a range such as 30-300, 30- or -300");
    };
    let names = Names::read(reader, names, |name| Zone::of(name).to_string())?;
    Some(Change::Ttl { names, least, most })
}

/// `[HOW] FROM TO`
fn cname(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Change> {
    let (names, [to]) = split_names::<1>(reader, words, "perhaps a kind of match, and two targets")?;
    // A regular expression is lower case here, too.
    let lower: Vec<Token> =
        names.iter().map(|token| Token { text: token.text.to_lowercase(), ..(*token).clone() }).collect();
    let names = Names::read(reader, &lower.iter().collect::<Vec<_>>(), str::to_owned)?;
    let to = match &names {
        Names::Exact(_) => Zone::of(&to.text).to_string(),
        _ => to.text.to_lowercase(),
    };
    Some(Change::Cname { names, to })
}

/// `[HOW] NAME FROM TO`
fn rcode(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Change> {
    let (names, [from, to]) =
        split_names::<2>(reader, words, "perhaps a kind of match, a name, and two response codes")?;
    let mut read = |token: &Token| {
        let number = token.text.parse().ok().filter(|number| *number <= 23 && !token.text.starts_with('+')).map(Rcode);
        let found = number.or_else(|| Rcode::parse(&token.text.to_uppercase()));
        found.or_else(|| reader.bad(token, "a response code such as NXDOMAIN, or its number up to 23"))
    };
    let (from, to) = (read(from), read(to));
    let names = Names::read(reader, names, |name| Zone::of(name).to_string());
    Some(Change::Rcode { names: names?, from: from?, to: to? })
}
