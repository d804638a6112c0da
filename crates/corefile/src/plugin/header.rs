//! `header { query|response set|clear FLAGS… }`: bits of messages' headers: `aa`, `ra`, `rd`.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Header {
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Of queries, or of responses.
    pub of_queries: bool,
    pub set: bool,
    pub flags: Vec<Flag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    Aa,
    Ra,
    Rd,
}

const OPTIONS: &[&str] = &["query", "response"];
const FLAGS: &[(&str, Flag)] = &[("aa", Flag::Aa), ("ra", Flag::Ra), ("rd", Flag::Rd)];

impl Settings for Header {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Header::default();
        while reader.first_stanza() {
            reader.nothing();
            while let Some(option) = reader.option() {
                let of_queries = match option.text.to_lowercase().as_str() {
                    "query" => true,
                    "response" => false,
                    _ => {
                        reader.unknown(option, OPTIONS);
                        continue;
                    }
                };
                settings.rules.extend(rule(reader, of_queries));
            }
            if settings.rules.is_empty() {
                reader.missing("a block with query or response, set or clear, and flags");
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let name = |flag: &Flag| FLAGS.iter().find(|(_, known)| known == flag).map_or("aa", |(name, _)| name);
        vec![self.rules.iter().fold(Stanza::new("header"), |stanza, rule| {
            let set = if rule.set { "set" } else { "clear" };
            let words = std::iter::once(set).chain(rule.flags.iter().map(name));
            stanza.line(if rule.of_queries { "query" } else { "response" }, words)
        })]
    }
}

fn rule(reader: &mut Reader<'_>, of_queries: bool) -> Option<Rule> {
    let words = reader.some("set or clear, and flags")?;
    let (action, flags) = words.split_first()?;
    let set = match action.text.to_lowercase().as_str() {
        "set" => true,
        "clear" => false,
        _ => return reader.bad(action, "set or clear"),
    };
    if flags.is_empty() {
        reader.missing("flags: aa, ra or rd");
        return None;
    }
    let flag = |token: &&crate::token::Token| FLAGS.iter().find(|(name, _)| *name == token.text.to_lowercase());
    if let Some(other) = flags.iter().find(|token| flag(token).is_none()) {
        return reader.bad(other, "a flag: aa, ra or rd");
    }
    Some(Rule { of_queries, set, flags: flags.iter().filter_map(flag).map(|(_, flag)| *flag).collect() })
}
