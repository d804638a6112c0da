//! `rewrite name [HOW] FROM TO [answer auto | answer name|value PATTERN TO]…`

use serde::Serialize;

use super::Names;
use crate::Stanza;
use crate::pattern::Pattern;
use crate::reader::Reader;
use crate::token::Token;
use crate::zone::Zone;

/// A question's name becomes another one, and in the response perhaps again what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NameRule {
    pub names: Names,
    /// With `{0}`, `{1}`… for the groups of a regular expression.
    pub to: String,
    /// Names and values of the response become what was asked for. Always so for exact names.
    pub answer_auto: bool,
    pub answers: Vec<Answer>,
}

/// What is changed in a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    pub part: Part,
    pub from: Pattern,
    pub to: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Name,
    Value,
}

const EXPECTED: &str = "perhaps a kind of match, a name and another, and perhaps answer with its arguments";

impl NameRule {
    pub(super) fn read(reader: &mut Reader<'_>, words: &[&Token]) -> Option<Self> {
        let normalize = |name: &str| Zone::of(name).to_string();
        let (names, to, answers) = match words {
            [name, to] => (std::slice::from_ref(name), to, &[][..]),
            [_, _, to, answers @ ..] => (&words[..2], to, answers),
            _ => {
                reader.missing(EXPECTED);
                return None;
            }
        };
        let names = Names::read(reader, names, normalize)?;
        if let Some(first) = answers.first().filter(|word| word.text == "metadata") {
            return reader.bad(first, "answer (metadata isn't supported here)");
        }
        match &names {
            Names::Regex(pattern) => groups(reader, to, &to.text, pattern)?,
            // CoreDNS judges the new name as if it were a pattern, and the old one what it makes of it.
            Names::Exact(from) => {
                let as_pattern = Token { text: normalize(&to.text), place: to.place.clone() };
                let pattern = reader.pattern(&as_pattern)?;
                groups(reader, to, from, &pattern)?;
            }
            _ => {}
        }
        let mut rule = NameRule { names, to: normalize(&to.text), answer_auto: false, answers: Vec::new() };
        rule.read_answers(reader, answers)?;
        Some(rule)
    }

    fn read_answers(&mut self, reader: &mut Reader<'_>, words: &[&Token]) -> Option<()> {
        let mut words = words.iter().copied().peekable();
        let Some(first) = words.peek() else { return Some(()) };
        if first.text != "answer" {
            return reader.bad(first, "answer");
        }
        while let Some(word) = words.next() {
            let Some(kind) = (if word.text == "answer" { words.next() } else { Some(word) }) else {
                reader.missing("auto, name or value after answer");
                return None;
            };
            let part = match kind.text.as_str() {
                "auto" => {
                    self.answer_auto = true;
                    continue;
                }
                "name" => Part::Name,
                "value" => Part::Value,
                _ => return reader.bad(kind, "auto, name or value"),
            };
            let (Some(from), Some(to)) = (words.next(), words.next()) else {
                reader.missing("a regular expression and what it becomes");
                return None;
            };
            let from = reader.pattern(from)?;
            groups(reader, to, &to.text, &from)?;
            self.answers.push(Answer { part, from, to: Zone::of(&to.text).to_string() });
        }
        if self.answer_auto && self.answers.iter().any(|answer| answer.part == Part::Name) {
            reader.together("answer auto and answer name exclude each other", "keep one of them");
        }
        Some(())
    }

    pub(super) fn write(&self, stanza: Stanza) -> Stanza {
        let mut stanza = self.names.write(stanza).with(&self.to);
        if self.answer_auto {
            stanza = stanza.with("answer").with("auto");
        }
        self.answers.iter().fold(stanza, |stanza, answer| {
            let part = if answer.part == Part::Name { "name" } else { "value" };
            stanza.with("answer").with(part).with(&answer.from).with(&answer.to)
        })
    }
}

/// Refuses a replacement that names more groups than there are.
fn groups(reader: &mut Reader<'_>, token: &Token, replacement: &str, pattern: &Pattern) -> Option<()> {
    let named = (0..=100).filter(|number| replacement.contains(&format!("{{{number}}}"))).count();
    if named > pattern.groups() {
        return reader.bad(token, format!("a name with {} of the pattern's groups at the most", pattern.groups()));
    }
    Some(())
}
