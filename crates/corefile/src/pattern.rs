//! Regular expressions as Go writes them (RE2). They are translated to the syntax of the crate `regex`, which differs in few
//! things. Not responsible for matching.

use std::fmt::{Display, Formatter};

use serde::{Serialize, Serializer};

/// CoreDNS takes none that is longer.
const LONGEST: usize = 10_000;
/// Go's limit for the numbers of `{n,m}`.
const REPEATS: u32 = 1000;

/// A regular expression that can be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    translated: String,
    groups: usize,
}

impl Pattern {
    /// Reads one; if it is none, what it should be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("a regular expression of {LONGEST} characters at the most"));
        }
        let translated = translate(text).map_err(|why| format!("a regular expression: {why}"))?;
        let parsed = regex_syntax::ast::parse::Parser::new().parse(&translated);
        let ast = parsed.map_err(|error| format!("a regular expression: {}", error.kind()))?;
        regex_syntax::hir::translate::Translator::new()
            .translate(&translated, &ast)
            .map_err(|error| format!("a regular expression: {}", error.kind()))
            .map(|hir| Pattern { text: text.to_owned(), translated, groups: hir.properties().explicit_captures_len() })
    }

    /// What stands in the Corefile.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same for the crate `regex`.
    pub fn translated(&self) -> &str {
        &self.translated
    }

    /// How many groups capture something.
    pub fn groups(&self) -> usize {
        self.groups
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// To `regex`'s syntax: quoted runs become escaped characters, braces that repeat nothing and brackets within classes are
/// literal, and so are the signs of its set operations.
fn translate(text: &str) -> Result<String, &'static str> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at, mut class) = (String::with_capacity(text.len()), 0, None);
    while let Some(&char) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        match char {
            '\\' => at = escape(&chars, at, class.is_some(), &mut out)?,
            '[' if class.is_none() => {
                out.push('[');
                if next == Some('^') {
                    out.push('^');
                    at += 1;
                }
                class = Some(at + 1);
            }
            // A bracket that comes first in a class is one of its characters.
            ']' if class == Some(at) => out.push_str("\\]"),
            ']' if class.is_some() => {
                class = None;
                out.push(']');
            }
            '[' if next == Some(':') => match named_class(&chars, at) {
                Some(end) => {
                    out.extend(&chars[at..end]);
                    at = end - 1;
                }
                None => out.push_str("\\["),
            },
            '[' => out.push_str("\\["),
            '&' | '~' if class.is_some() => out.extend(['\\', char]),
            '-' if class.is_some() && next == Some('-') && chars.get(at + 2) == Some(&']') => out.push_str("\\-"),
            '{' if class.is_none() => match repetition(&chars[at..])? {
                Some(length) => {
                    out.extend(&chars[at..at + length]);
                    at += length - 1;
                }
                None => out.push_str("\\{"),
            },
            '}' if class.is_none() => out.push_str("\\}"),
            _ => out.push(char),
        }
        at += 1;
    }
    Ok(out)
}

/// An escape sequence at `at`; returns the position of its last character.
fn escape(chars: &[char], at: usize, in_class: bool, out: &mut String) -> Result<usize, &'static str> {
    match chars.get(at + 1) {
        None => Err("a backslash ends it"),
        Some('Q') if !in_class => {
            let end = chars[at + 2..].windows(2).position(|pair| pair == ['\\', 'E']);
            let quoted = end.map_or(&chars[at + 2..], |end| &chars[at + 2..at + 2 + end]);
            quoted.iter().for_each(|char| {
                if regex_syntax::is_meta_character(*char) {
                    out.push('\\');
                }
                out.push(*char);
            });
            Ok(end.map_or(chars.len() - 1, |end| at + 3 + end))
        }
        Some('E') if !in_class => Ok(at + 1),
        Some('C') => Err("\\C stands for a byte, which isn't supported here"),
        // Octal, as Go has it: \123 or \0.
        Some(&digit @ '0'..='7') => {
            let is_octal = |char: &&char| matches!(char, '0'..='7');
            let length = chars[at + 1..].iter().take(3).take_while(is_octal).count();
            if digit != '0' && length < 2 {
                return Err("there are no back references");
            }
            let value = chars[at + 1..at + 1 + length].iter().fold(0, |sum, c| sum * 8 + (*c as u32 - '0' as u32));
            out.push_str(&format!("\\x{{{value:x}}}"));
            Ok(at + length)
        }
        Some('<' | '>' | 'b' | 'B') if in_class => Err("an escape in a class that Go doesn't know"),
        Some('b') if chars.get(at + 2) == Some(&'{') => {
            out.push_str("(?:\\b)");
            Ok(at + 1)
        }
        Some('u' | 'U' | '<' | '>') => Err("an escape that Go doesn't know"),
        Some(char) => {
            out.extend(['\\', *char]);
            Ok(at + 1)
        }
    }
}

/// The end of `[:name:]` or `[:^name:]` within a class.
fn named_class(chars: &[char], at: usize) -> Option<usize> {
    let length = chars[at + 2..].windows(2).position(|pair| pair == [':', ']'])?;
    Some(at + 2 + length + 2)
}

/// The length of `{n}`, `{n,}` or `{n,m}` at the beginning.
fn repetition(chars: &[char]) -> Result<Option<usize>, &'static str> {
    let Some(end) = chars.iter().position(|char| *char == '}') else { return Ok(None) };
    let inner: String = chars[1..end].iter().collect();
    let (least, most) = inner.split_once(',').map_or((inner.as_str(), None), |(least, most)| (least, Some(most)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let zeros = |text: &str| text.len() > 1 && text.starts_with('0');
    if !is_number(least)
        || zeros(least)
        || most.is_some_and(|most| !most.is_empty() && (!is_number(most) || zeros(most)))
    {
        return Ok(None);
    }
    let numbers = [Some(least), most.filter(|most| !most.is_empty())];
    if numbers.into_iter().flatten().any(|number| number.parse::<u32>().is_ok_and(|n| n <= REPEATS).eq(&false)) {
        return Err("it repeats something more than 1000 times");
    }
    Ok(Some(end + 1))
}
