//! What a plugin reads its settings from: the words of all its directives in a server block.
//!
//! The steps are CoreDNS's: a directive, its arguments up to the end of the line or a brace, then the options of its block,
//! each with its own arguments. What is wrong goes to the report, and reading goes on behind it. Not responsible for what
//! any of it means.

use std::ops::RangeInclusive;

use crate::problem::{Fault, Report};
use crate::token::Token;
use crate::{GoDuration, Pattern, Sources, Zone, zone};

/// What a plugin may know beside its own words.
pub(crate) struct Around<'a> {
    /// The server block's zones.
    pub zones: &'a [Zone],
    /// The folder that the plugin `root` names.
    pub root: Option<&'a str>,
    pub sources: &'a dyn Sources,
}

pub(crate) struct Reader<'a> {
    plugin: &'static str,
    option: Option<&'a str>,
    tokens: &'a [Token],
    /// The number of words read; the one before is the present one.
    read: usize,
    within: bool,
    stanzas: u32,
    pub around: &'a Around<'a>,
    pub report: &'a mut Report,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        plugin: &'static str,
        tokens: &'a [Token],
        around: &'a Around<'a>,
        report: &'a mut Report,
    ) -> Self {
        Reader { plugin, option: None, tokens, read: 0, within: false, stanzas: 0, around, report }
    }

    /// The present word.
    pub(crate) fn present(&self) -> &'a Token {
        &self.tokens[self.read.saturating_sub(1)]
    }

    fn next(&mut self) -> Option<&'a Token> {
        let next = self.tokens.get(self.read)?;
        self.read += 1;
        Some(next)
    }

    /// Goes to the next directive.
    pub(crate) fn stanza(&mut self) -> bool {
        self.option = None;
        while let Some(token) = self.next() {
            if token.text == self.plugin {
                self.stanzas += 1;
                return true;
            }
            let expected = "lines of their own after it".into();
            self.fault(token, Fault::Excess { of: self.plugin.into(), found: token.text.clone(), expected });
            self.skip_line();
        }
        false
    }

    /// The same for a plugin that a server block has once.
    pub(crate) fn only_stanza(&mut self) -> bool {
        let there = self.stanza();
        if there && self.stanzas > 1 {
            self.fault(self.present(), Fault::Again(self.plugin.into()));
        }
        there && self.stanzas == 1
    }

    /// The same for a plugin of which CoreDNS reads the first directive only.
    pub(crate) fn first_stanza(&mut self) -> bool {
        if self.stanzas == 0 {
            return self.stanza();
        }
        if let Some(token) = self.tokens.get(self.read) {
            let what = format!("what comes after the first {}", self.plugin);
            self.report.warning(&token.place, Fault::LeftOut { what });
        }
        self.read = self.tokens.len();
        false
    }

    /// Goes to the next option of the directive's block.
    pub(crate) fn option(&mut self) -> Option<&'a Token> {
        self.option = None;
        if !self.within {
            if self.peek_argument().is_none_or(|token| token.text != "{") {
                return None;
            }
            self.read += 1;
            self.within = true;
        }
        loop {
            let token = self.next()?;
            match token.text.as_str() {
                "}" => {
                    self.within = false;
                    return None;
                }
                "{" => {
                    self.fault(token, Fault::Block { of: self.plugin.into() });
                    self.skip_block();
                }
                option => {
                    self.option = Some(option);
                    return Some(token);
                }
            }
        }
    }

    /// The next word if it is on the same line.
    fn peek_argument(&self) -> Option<&'a Token> {
        let next = self.tokens.get(self.read)?;
        self.present().same_line(next).then_some(next)
    }

    /// The next argument, if there is another.
    pub(crate) fn argument(&mut self) -> Option<&'a Token> {
        let next = self.peek_argument().filter(|token| token.text != "{")?;
        self.read += 1;
        if next.text == "}" {
            // For CoreDNS it is an argument, and nothing ends the block. Outside of blocks a variable may bring one.
            self.within = false;
            let expected = "an argument, or a line of its own for the brace";
            self.fault(next, Fault::Unexpected { found: next.text.clone(), expected });
            return None;
        }
        Some(next)
    }

    /// All further arguments.
    pub(crate) fn arguments(&mut self) -> Vec<&'a Token> {
        std::iter::from_fn(|| self.argument()).collect()
    }

    /// The further arguments, of which there is one at least.
    pub(crate) fn some(&mut self, expected: &str) -> Option<Vec<&'a Token>> {
        let arguments = self.arguments();
        if arguments.is_empty() {
            self.missing(expected);
            return None;
        }
        Some(arguments)
    }

    /// The next argument, which has to be there. What follows is the next option, as in CoreDNS.
    pub(crate) fn one(&mut self, expected: &str) -> Option<&'a Token> {
        let argument = self.argument();
        if argument.is_none() {
            self.missing(expected);
        }
        argument
    }

    /// The only argument.
    pub(crate) fn sole(&mut self, expected: &str) -> Option<&'a Token> {
        let arguments = self.some(expected)?;
        if let Some(further) = arguments.get(1) {
            self.excess(further, expected);
            return None;
        }
        arguments.first().copied()
    }

    /// The first argument; CoreDNS leaves out what follows.
    pub(crate) fn first(&mut self, expected: &str) -> Option<&'a Token> {
        let arguments = self.some(expected)?;
        if let Some(further) = arguments.get(1) {
            self.left_out(further);
        }
        arguments.first().copied()
    }

    /// No argument at all.
    pub(crate) fn nothing(&mut self) -> bool {
        match self.arguments().first() {
            Some(further) => {
                self.excess(further, "nothing");
                false
            }
            None => true,
        }
    }

    /// One argument at the most.
    pub(crate) fn at_most_one(&mut self, expected: &str) -> Option<&'a Token> {
        let arguments = self.arguments();
        if let Some(further) = arguments.get(1) {
            self.excess(further, expected);
        }
        arguments.first().copied()
    }

    /// What the present line is about.
    pub(crate) fn of(&self) -> String {
        match self.option {
            Some(option) => format!("{option} of {}", self.plugin),
            None => self.plugin.to_owned(),
        }
    }

    pub(crate) fn fault(&mut self, token: &Token, fault: Fault) {
        self.report.problem(&token.place, fault);
    }

    pub(crate) fn warn(&mut self, token: &Token, fault: Fault) {
        self.report.warning(&token.place, fault);
    }

    pub(crate) fn together(&mut self, problem: impl Into<String>, fix: &'static str) {
        self.fault(self.present(), Fault::Together { problem: problem.into(), fix });
    }

    pub(crate) fn missing(&mut self, expected: &str) {
        let of = self.of();
        self.fault(self.present(), Fault::Missing { of, expected: expected.to_owned() });
    }

    pub(crate) fn excess(&mut self, found: &Token, expected: &str) {
        let of = self.of();
        self.fault(found, Fault::Excess { of, found: found.text.clone(), expected: expected.to_owned() });
    }

    /// CoreDNS takes no notice of this word.
    pub(crate) fn left_out(&mut self, token: &Token) {
        self.warn(token, Fault::LeftOut { what: format!("{:?} of {}", token.text, self.of()) });
    }

    pub(crate) fn bad<T>(&mut self, token: &Token, expected: impl Into<String>) -> Option<T> {
        let of = self.of();
        self.fault(token, Fault::Value { of, value: token.text.clone(), expected: expected.into() });
        None
    }

    /// The option that was read last isn't one.
    pub(crate) fn unknown(&mut self, option: &Token, known: &'static [&'static str]) {
        self.fault(option, Fault::UnknownOption { plugin: self.plugin, option: option.text.clone(), known });
        self.skip_line();
    }

    /// The option that was read last is one of CoreDNS's only.
    pub(crate) fn unsupported(&mut self, option: &Token, instead: &'static str) {
        self.fault(option, Fault::UnsupportedOption { plugin: self.plugin, option: option.text.clone(), instead });
        self.skip_line();
    }

    fn skip_line(&mut self) {
        while self.argument().is_some() {}
        if self.peek_argument().is_some_and(|token| token.text == "{") {
            self.read += 1;
            self.skip_block();
        }
    }

    /// Goes behind the end of a block whose brace has been read.
    fn skip_block(&mut self) {
        let mut nesting = 1;
        while nesting > 0 {
            match self.next() {
                Some(token) if token.text == "{" => nesting += 1,
                Some(token) if token.text == "}" => nesting -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// A whole number.
    pub(crate) fn number(&mut self, token: &Token, range: RangeInclusive<i64>) -> Option<i64> {
        match token.text.parse::<i64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ if *range.end() == i64::MAX => self.bad(token, format!("a whole number from {}", range.start())),
            _ => self.bad(token, format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// A number without a sign, of so many bits.
    pub(crate) fn unsigned(&mut self, token: &Token, range: RangeInclusive<i64>) -> Option<i64> {
        if token.text.starts_with(['+', '-']) {
            return self.bad(token, format!("a whole number from {} to {}", range.start(), range.end()));
        }
        self.number(token, range)
    }

    /// A duration of this length at least.
    pub(crate) fn duration(&mut self, token: &Token, least: Option<GoDuration>) -> Option<GoDuration> {
        let found = GoDuration::parse(&token.text);
        match (found, least) {
            (None, _) => self.bad(token, "a duration such as 500ms, 2s or 1m30s"),
            (Some(found), Some(least)) if found < least => self.bad(token, format!("a duration of {least} or more")),
            (Some(found), _) => Some(found),
        }
    }

    /// A regular expression.
    pub(crate) fn pattern(&mut self, token: &Token) -> Option<Pattern> {
        match Pattern::parse(&token.text) {
            Ok(pattern) => Some(pattern),
            Err(expected) => self.bad(token, expected),
        }
    }

    /// Where something listens: `[HOST]:PORT`.
    pub(crate) fn listen(&mut self, token: &Token) -> Option<String> {
        match zone::split_address(&token.text) {
            Some(_) => Some(token.text.clone()),
            None => self.bad(token, "an address with a port, such as :8080 or 127.0.0.1:8080"),
        }
    }

    /// Zones that arguments name, or else those of the server block.
    pub(crate) fn zones_or_block(&mut self, arguments: &[&'a Token]) -> Vec<Zone> {
        let Some(&first) = arguments.first() else { return self.around.zones.to_vec() };
        let zones = self.zones(arguments);
        if zones.is_empty() {
            // CoreDNS would ask the plugin for no name at all.
            self.bad::<()>(first, "a zone such as example.org or 10.0.0.0/8");
        }
        zones
    }

    /// Zones that arguments name; what isn't one counts for nothing.
    pub(crate) fn zones(&mut self, arguments: &[&'a Token]) -> Vec<Zone> {
        let mut zones = Vec::new();
        for argument in arguments {
            match zone::zones(&argument.text) {
                Ok(found) => zones.extend(found),
                Err(_) => self.left_out(argument),
            }
        }
        zones
    }

    /// The zones of `fallthrough`; without any it is for all names.
    pub(crate) fn fallthrough(&mut self) -> Vec<Zone> {
        let arguments = self.arguments();
        if arguments.is_empty() { vec![Zone::root()] } else { self.zones(&arguments) }
    }

    /// A path to a file that has to be there, relative to the folder that `root` names.
    pub(crate) fn file(&mut self, token: &Token) -> Option<String> {
        let path = below(self.around.root, &token.text);
        match self.around.sources.read(&path) {
            Ok(_) => Some(token.text.clone()),
            Err(source) => {
                let of = self.of();
                self.fault(token, Fault::Read { of, path, source: source.into() });
                None
            }
        }
    }
}

impl<'a> Reader<'a> {
    /// Looks at a file that may come later; if it isn't there, that is a warning, or a problem where it has to be.
    pub(crate) fn look(&mut self, token: &'a Token, must: bool) {
        let path = below(self.around.root, &token.text);
        if let Err(source) = self.around.sources.read(&path) {
            let fault = Fault::Read { of: self.plugin.into(), path, source: source.into() };
            if must { self.fault(token, fault) } else { self.warn(token, fault) }
        }
    }
}

/// A path, from the folder that `root` names.
pub(crate) fn below(root: Option<&str>, path: &str) -> String {
    match root {
        Some(root) if !root.is_empty() && !path.starts_with('/') => format!("{}/{path}", root.trim_end_matches('/')),
        _ => path.to_owned(),
    }
}

/// Sets what was read, if it could be.
pub(crate) trait Set<T> {
    fn set(&mut self, value: Option<T>);
}

impl<T> Set<T> for T {
    fn set(&mut self, value: Option<T>) {
        if let Some(value) = value {
            *self = value;
        }
    }
}
