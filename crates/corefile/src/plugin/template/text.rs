//! Templates of records. Not responsible for whether a record comes out.

use std::fmt::{Display, Formatter};

use serde::{Serialize, Serializer};

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    source: String,
    pieces: Vec<Piece>,
}

/// What a template is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    Field(Field),
    /// `{{ .Group.NAME }}` or `{{ index .Group "NAME" }}`: what a named group of the pattern matched.
    Group(String),
    /// `{{ index .Match N }}`: what a group matched; 0 is the whole.
    Match(usize),
    /// `{{ .Meta "LABEL" }}`: something that another plugin knows; empty if none does.
    Meta(String),
}

/// Facts about a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Zone,
    Name,
    Regex,
    Class,
    Type,
    Remote,
    MessageId,
    QuestionName,
}

const FIELDS: &[(&str, Field)] = &[
    (".Zone", Field::Zone),
    (".Name", Field::Name),
    (".Regex", Field::Regex),
    (".Class", Field::Class),
    (".Type", Field::Type),
    (".Remote", Field::Remote),
    (".Message.Id", Field::MessageId),
    (".Question.Name", Field::QuestionName),
];

impl Text {
    /// Reads one; if it is none, what it should be.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let (mut rest, mut trim) = (source, false);
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((action, after)) = after.split_once("}}") else {
                return Err("a template: {{ has no }} behind it".to_owned());
            };
            let dashed =
                |dash: Option<&str>| dash.is_some_and(|inner| inner.is_empty() || inner.contains(char::is_whitespace));
            let trim_before = dashed(action.strip_prefix('-').and_then(|inner| inner.get(..1)));
            let trim_after =
                action.len() > 1 && action.ends_with('-') && action[..action.len() - 1].ends_with(char::is_whitespace);
            let literal = if trim { before.trim_start() } else { before };
            push(&mut pieces, if trim_before { literal.trim_end() } else { literal });
            let action = if trim_before { &action[1..] } else { action };
            let action = if trim_after { action.strip_suffix('-').unwrap_or(action) } else { action };
            pieces.extend(piece(action.trim())?);
            (rest, trim) = (after, trim_after);
        }
        push(&mut pieces, if trim { rest.trim_start() } else { rest });
        Ok(Text { source: source.to_owned(), pieces })
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

fn push(pieces: &mut Vec<Piece>, literal: &str) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.to_owned()));
    }
}

/// An action; a comment is nothing.
fn piece(action: &str) -> Result<Option<Piece>, String> {
    if action.starts_with("/*") && action.ends_with("*/") && action.len() >= 4 {
        return Ok(None);
    }
    let plain = action.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(action).trim();
    if let Some((_, field)) = FIELDS.iter().find(|(name, _)| *name == plain) {
        return Ok(Some(Piece::Field(*field)));
    }
    let identifier = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let string = |text: &str| {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        (!inner.contains(['"', '\\'])).then(|| inner.to_owned())
    };
    let words: Vec<&str> = plain.split_whitespace().collect();
    let piece = match words[..] {
        [group] => group.strip_prefix(".Group.").filter(|name| identifier(name)).map(|name| Piece::Group(name.into())),
        ["index", ".Match", number] => number.parse().ok().map(Piece::Match),
        ["index", ".Group", name] => string(name).map(Piece::Group),
        [".Meta", label] => string(label).map(Piece::Meta),
        _ => None,
    };
    let fields: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    piece.map(Some).ok_or_else(|| {
        format!(
            "a template that is supported here: of {{{{ {action} }}}} there are {}, .Group.NAME, index .Match N, .Meta \"LABEL\"",
            fields.join(", ")
        )
    })
}

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}
