//! Words of a Corefile, as CoreDNS (caddyfile) splits it: by white space, with quotes around what has some.
//!
//! Its peculiarities are kept, since files depend on them: carriage returns vanish anywhere outside of quotes, a `#` within
//! a word ends the word and makes a comment of what follows up to the next white space only, and the end of the file ends a
//! quoted word. There is no continuation of lines. Not responsible for what words mean.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use crate::Place;

/// A word. Quoting leaves no trace: a quoted brace is a brace.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub text: String,
    pub place: Place,
}

impl Token {
    /// The line that it ends on.
    pub(crate) fn last_line(&self) -> u32 {
        self.place.line.saturating_add(self.text.bytes().filter(|b| *b == b'\n').count() as u32)
    }

    /// Whether `next`, which follows it, is on the same line of the same file.
    pub(crate) fn same_line(&self, next: &Token) -> bool {
        self.place.file == next.place.file && self.last_line() == next.place.line
    }

    /// Whether `next`, which follows it, begins a line. What an import brought from further up begins none.
    pub(crate) fn before_new_line(&self, next: &Token) -> bool {
        self.place.file != next.place.file || self.last_line() < next.place.line
    }
}

/// The words of a text.
pub(crate) struct Words {
    pub tokens: Vec<Token>,
    /// Where a quote begins that nothing ends.
    pub unended: Option<Place>,
}

/// Splits a text.
pub(crate) fn split(file: &Arc<str>, text: &str) -> Words {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lexer = Lexer { file, chars: text.chars().peekable(), line: 1, column: 0, unended: None };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.token() {
        tokens.push(token);
    }
    Words { tokens, unended: lexer.unended }
}

struct Lexer<'a> {
    file: &'a Arc<str>,
    chars: Peekable<Chars<'a>>,
    line: u32,
    /// Of the character that was read last.
    column: u32,
    unended: Option<Place>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let char = self.chars.next()?;
        self.column += 1;
        Some(char)
    }

    fn new_line(&mut self) {
        self.line = self.line.saturating_add(1);
        self.column = 0;
    }

    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line, column: self.column }
    }

    fn token(&mut self) -> Option<Token> {
        let mut token: Option<Token> = None;
        let mut comment = false;
        while let Some(char) = self.next() {
            if char.is_whitespace() {
                if char == '\r' {
                    continue;
                }
                if char == '\n' {
                    self.new_line();
                    comment = false;
                }
                if token.is_some() {
                    return token;
                }
                continue;
            }
            comment = comment || char == '#';
            if comment {
                continue;
            }
            match &mut token {
                Some(token) => token.text.push(char),
                None if char == '"' => return self.quoted(),
                None => token = Some(Token { text: char.into(), place: self.place() }),
            }
        }
        token
    }

    /// The rest of a word whose first quote has been read.
    fn quoted(&mut self) -> Option<Token> {
        let mut token = Token { text: String::new(), place: self.place() };
        let mut escaped = false;
        while let Some(char) = self.next() {
            match char {
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                '"' if !escaped => return Some(token),
                '"' => {}
                _ if escaped => token.text.push('\\'),
                _ => {}
            }
            if char == '\n' {
                self.new_line();
            }
            token.text.push(char);
            escaped = false;
        }
        self.unended = Some(token.place.clone());
        (!token.text.is_empty()).then_some(token)
    }
}
