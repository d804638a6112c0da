//! A plugin's lines of a Corefile, to be printed. Not responsible for which there are.

use std::fmt::{Display, Formatter, Result};

/// One directive: its name, its arguments, and the lines of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    pub name: &'static str,
    pub arguments: Vec<String>,
    pub options: Vec<Vec<String>>,
}

impl Stanza {
    pub(crate) fn new(name: &'static str) -> Self {
        Stanza { name, arguments: Vec::new(), options: Vec::new() }
    }

    /// Adds an argument.
    pub(crate) fn with(mut self, argument: impl ToString) -> Self {
        self.arguments.push(argument.to_string());
        self
    }

    /// Adds arguments.
    pub(crate) fn with_all<T: ToString>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.to_string()));
        self
    }

    /// Adds an option with one value.
    pub(crate) fn option(self, name: &str, value: impl ToString) -> Self {
        self.line(name, [value.to_string()])
    }

    /// Adds an option with its values.
    pub(crate) fn line<T: ToString>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values = values.into_iter().map(|value| value.to_string());
        self.options.push(std::iter::once(name.to_owned()).chain(values).collect());
        self
    }

    /// Adds an option with its values if there are any.
    pub(crate) fn list<T: ToString>(self, name: &str, values: &[T]) -> Self {
        if values.is_empty() { self } else { self.line(name, values.iter().map(T::to_string)) }
    }

    /// Adds an option that is only there or not.
    pub(crate) fn flag(self, name: &str, set: bool) -> Self {
        if set { self.line::<String>(name, []) } else { self }
    }

    /// Adds an option if it has a value.
    pub(crate) fn maybe(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }
}

impl Display for Stanza {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "    {}", self.name)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))?;
        if self.options.is_empty() {
            return writeln!(f);
        }
        writeln!(f, " {{")?;
        for option in &self.options {
            let words: Vec<String> = option.iter().map(|word| quoted(word)).collect();
            writeln!(f, "        {}", words.join(" "))?;
        }
        writeln!(f, "    }}")
    }
}

/// Whether a word can be written: in quotes, no backslash can stand alone before a quote or at the end.
pub(crate) fn can_be_written(word: &str) -> bool {
    let mut backslashes = 0;
    let alone = |backslashes: usize| backslashes % 2 == 1;
    for char in word.chars() {
        match char {
            '\\' => backslashes += 1,
            '"' if alone(backslashes) => return is_plain(word),
            _ => backslashes = 0,
        }
    }
    !alone(backslashes) || is_plain(word)
}

fn is_plain(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('"') && !word.contains(|c: char| c.is_whitespace() || c == '#')
}

/// A word as a Corefile has it.
pub(crate) fn quoted(word: &str) -> String {
    if is_plain(word) { word.to_owned() } else { format!("\"{}\"", word.replace('"', "\\\"")) }
}
