//! The text form of label selectors. Not responsible for matching.

use std::collections::BTreeSet;

use super::{Operator, Requirement, SelectorError};
use crate::field::{Error, Path};
use crate::names;

/// How an operator is spelled, in the order that messages list them.
const BINARY: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'t> {
    End,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Word(&'t str),
    Bad(&'t str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Word(text) | Token::Bad(text) => text,
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Not => {
                requirements.push(parser.requirement().map_err(SelectorError::Requirement)?);
            }
            Token::End => return Ok(requirements),
            other => {
                let why = format!("found '{}', expected: !, identifier, or 'end of string'", other.text());
                return Err(SelectorError::Syntax(why));
            }
        }
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Comma if matches!(parser.peek(), Token::Word(_) | Token::Not) => {}
            Token::Comma => {
                let why = format!("found '{}', expected: identifier after ','", parser.peek().text());
                return Err(SelectorError::Syntax(why));
            }
            other => {
                let why = format!("found '{}', expected: ',' or 'end of string'", other.text());
                return Err(SelectorError::Syntax(why));
            }
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '!' if rest.starts_with("!=") => (Token::NotEquals, 2),
            '!' => (Token::Not, 1),
            '=' if rest.starts_with("==") => (Token::DoubleEquals, 2),
            '=' => (Token::Equals, 1),
            '\0' => (Token::Bad("\0"), 1),
            _ => {
                let end = rest.find(|c: char| special(c) || c.is_ascii_whitespace() || c == '\0');
                let end = end.unwrap_or(rest.len());
                (Token::Word(&rest[..end]), end.max(first.len_utf8()))
            }
        };
        found.push(token);
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    found
}

struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Token::Not;
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(word) => checked_key(word)?,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        if matches!(self.peek(), Token::End | Token::Comma) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(Requirement { key, operator });
        }
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In(self.set(&key)?),
            Token::Word("notin") => Operator::NotIn(self.set(&key)?),
            Token::Equals | Token::DoubleEquals => Operator::In([self.exact(&key)?].into()),
            Token::NotEquals => Operator::NotIn([self.exact(&key)?].into()),
            Token::Greater => Operator::GreaterThan(self.number(&key)?),
            Token::Less => Operator::LessThan(self.number(&key)?),
            other => return Err(format!("found '{}', expected: {BINARY}", other.text())),
        };
        Ok(Requirement { key, operator })
    }

    /// `(a,b)`; an empty place between commas is the empty value.
    fn set(&mut self, key: &str) -> Result<BTreeSet<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = BTreeSet::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.at += 1;
                    word
                }
                Token::Comma | Token::Close => "",
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            };
            values.insert(checked_value(key, value)?);
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }

    fn exact(&mut self, key: &str) -> Result<String, String> {
        checked_value(key, self.word()?)
    }

    /// One value; nothing before a comma or the end is the empty one.
    fn word(&mut self) -> Result<&'t str, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(""),
            Token::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let text = self.word()?;
        let path = Path::new("values").index(0);
        let why = "for 'Gt', 'Lt' operators, the value must be an integer";
        match (text.parse(), checked_value(key, text)) {
            (Ok(number), Ok(_)) => Ok(number),
            (Ok(_), Err(other)) => Err(other),
            (Err(_), Ok(_)) => Err(Error::invalid(&path, text, why).to_string()),
            (Err(_), Err(other)) => Err(format!("[{}, {other}]", Error::invalid(&path, text, why))),
        }
    }
}

fn checked_key(key: &str) -> Result<String, String> {
    let mistakes = names::qualified_name(key);
    if mistakes.is_empty() {
        return Ok(key.to_owned());
    }
    Err(Error::invalid(&Path::default(), key, mistakes.join("; ")).to_string())
}

fn checked_value(key: &str, value: &str) -> Result<String, String> {
    let mistakes = names::label_value(value);
    if mistakes.is_empty() {
        return Ok(value.to_owned());
    }
    let path = Path::new("values").index(0).key(key);
    Err(Error::invalid(&path, value, mistakes.join("; ")).to_string())
}
