//! Server blocks: keys, and the words of each directive. Snippets and imports are put in place here, and variables of the
//! environment. Not responsible for what keys and directives mean, but for the names of plugins.
//!
//! As in CoreDNS, a plugin's name that begins a line is known or an error, what an import brings is read as if it stood
//! there, and the last brace of the last block may be missing when the one before it is the end of a plugin's block.

use std::collections::HashMap;
use std::sync::Arc;

use crate::problem::{Fault, Report};
use crate::token::{self, Token};
use crate::{Place, Sources, glob, plugin};

/// A server block.
#[derive(Default)]
pub(crate) struct Block {
    pub keys: Vec<Token>,
    /// By plugin, in the order in which the first of each comes: all its words, of each of its directives.
    pub directives: Vec<(String, Vec<Token>)>,
}

/// Imports that one file may need in all, and the words that they may bring.
const IMPORTS: usize = 10_000;
const TOKENS: usize = 500_000;

/// Reads the blocks of a text. What can't be read ends it, with a problem.
pub(crate) fn read(file: &str, text: &str, sources: &dyn Sources, report: &mut Report) -> Vec<Block> {
    let words = token::split(&Arc::from(file), text);
    if let Some(place) = &words.unended {
        report.warning(place, Fault::Quote);
    }
    let mut rest = words.tokens;
    rest.reverse();
    let start = Place { file: Arc::from(file), line: 1, column: 1 };
    let mut parser =
        Parser { read: Vec::new(), rest, start, snippets: HashMap::new(), imports: 0, imported: 0, sources, report };
    let mut blocks = Vec::new();
    while parser.next() {
        match parser.block() {
            Ok(block) if block.keys.is_empty() => {}
            Ok(block) => blocks.push(block),
            Err(Stopped) => break,
        }
    }
    blocks
}

/// The problem is in the report, and nothing can be read any more.
struct Stopped;

struct Parser<'a> {
    /// The last is the present word.
    read: Vec<Token>,
    /// What follows; the last is the next word.
    rest: Vec<Token>,
    start: Place,
    snippets: HashMap<String, Vec<Token>>,
    imports: usize,
    imported: usize,
    sources: &'a dyn Sources,
    report: &'a mut Report,
}

impl Parser<'_> {
    fn next(&mut self) -> bool {
        let next = self.rest.pop();
        let there = next.is_some();
        self.read.extend(next);
        there
    }

    fn back(&mut self) {
        let last = self.read.pop();
        self.rest.extend(last);
    }

    /// Goes on if the next word is on the same line.
    fn next_argument(&mut self) -> bool {
        match (self.read.last(), self.rest.last()) {
            (Some(present), Some(next)) if present.same_line(next) => self.next(),
            _ => false,
        }
    }

    fn text(&self) -> &str {
        self.read.last().map_or("", |token| &token.text)
    }

    fn place(&self) -> Place {
        self.read.last().map_or_else(|| self.start.clone(), |token| token.place.clone())
    }

    fn begins_line(&self) -> bool {
        match &self.read[..] {
            [.., before, present] => before.before_new_line(present),
            _ => true,
        }
    }

    fn stop<T>(&mut self, fault: Fault) -> Result<T, Stopped> {
        let place = self.place();
        self.report.problem(&place, fault);
        Err(Stopped)
    }

    fn unexpected<T>(&mut self, expected: &'static str) -> Result<T, Stopped> {
        self.stop(Fault::Unexpected { found: self.text().to_owned(), expected })
    }

    /// From the present word on.
    fn block(&mut self) -> Result<Block, Stopped> {
        let mut block = Block::default();
        let ended = self.keys(&mut block.keys)?;
        if ended {
            return Ok(block);
        }
        if let [key] = &block.keys[..]
            && let Some(name) = key.text.strip_prefix('(').and_then(|name| name.strip_suffix(')'))
        {
            let name = name.to_owned();
            self.snippet(name)?;
            return Ok(Block::default());
        }
        let open = self.text() == "{";
        if !open {
            self.back();
        }
        self.directives(&mut block)?;
        if open && self.text() != "}" {
            return self.stop(Fault::End { expected: "the brace } of the server block" });
        }
        Ok(block)
    }

    /// Reads keys, up to the word that is none; whether the file ends with them.
    fn keys(&mut self, keys: &mut Vec<Token>) -> Result<bool, Stopped> {
        let mut another = false;
        loop {
            let mut text = replace(self.text(), self.sources);
            if text == "import" && self.begins_line() {
                self.import()?;
                if self.next() {
                    continue;
                }
                text = String::new();
            }
            if text == "{" {
                if another {
                    return self.unexpected("another key (the one before ends with a comma)");
                }
                return Ok(false);
            }
            if !text.is_empty() {
                another = text.ends_with(',');
                let text = text.strip_suffix(',').unwrap_or(&text).to_owned();
                keys.push(Token { text, place: self.place() });
            }
            match self.next() {
                false if another => return self.stop(Fault::End { expected: "another key" }),
                false => return Ok(true),
                true if !another && self.begins_line() => return Ok(false),
                true => {}
            }
        }
    }

    /// Directives up to the closing brace, which becomes the present word, or the end.
    fn directives(&mut self, block: &mut Block) -> Result<(), Stopped> {
        while self.next() {
            match self.text() {
                "}" => break,
                "import" => self.import()?,
                _ => self.directive(block)?,
            }
        }
        Ok(())
    }

    /// One directive with its block.
    fn directive(&mut self, block: &mut Block) -> Result<(), Stopped> {
        let name = replace(self.text(), self.sources);
        let place = self.place();
        let mut tokens = vec![Token { text: name.clone(), place: place.clone() }];
        let mut nesting = 0;
        while self.next() {
            match self.text() {
                "{" => nesting += 1,
                _ if nesting == 0 && self.begins_line() => {
                    self.back();
                    break;
                }
                "}" if nesting > 0 => nesting -= 1,
                "}" => return self.unexpected("an argument, or a line of its own for the brace"),
                "import" if self.begins_line() => {
                    self.import()?;
                    continue;
                }
                _ => {}
            }
            if let Some(token) = self.read.last_mut() {
                token.text = replace(&token.text, self.sources);
                tokens.push(token.clone());
            }
        }
        if nesting > 0 {
            return self.stop(Fault::End { expected: "the brace } of the plugin's block" });
        }
        match plugin::known(&name) {
            None => self.report.problem(&place, Fault::UnknownPlugin(name)),
            Some(false) => self.report.problem(&place, Fault::UnsupportedPlugin(name)),
            Some(true) => match block.directives.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.extend(tokens),
                None => block.directives.push((name, tokens)),
            },
        }
        Ok(())
    }

    fn snippet(&mut self, name: String) -> Result<(), Stopped> {
        if self.snippets.contains_key(&name) {
            return self.stop(Fault::SnippetAgain(name));
        }
        if self.text() != "{" {
            return self.unexpected("the brace { of the snippet");
        }
        let (mut nesting, mut tokens) = (1, Vec::new());
        while self.next() {
            match self.text() {
                "}" => nesting -= 1,
                "{" => nesting += 1,
                _ => {}
            }
            if nesting == 0 {
                break;
            }
            tokens.extend(self.read.last().cloned());
        }
        if nesting != 0 {
            return self.stop(Fault::End { expected: "the brace } of the snippet" });
        }
        let begins = |at: usize| at == 0 || tokens[at - 1].place.line != tokens[at].place.line;
        let itself = |at: &usize| {
            tokens[*at].text == "import" && begins(*at) && replace(&tokens[at + 1].text, self.sources) == name
        };
        if let Some(at) = (0..tokens.len().saturating_sub(1)).find(itself) {
            self.report.problem(&tokens[at].place, Fault::ImportLoop);
            return Err(Stopped);
        }
        self.snippets.insert(name, tokens);
        Ok(())
    }

    /// Puts what the present word, `import`, asks for in its place. The word before it becomes the present one.
    fn import(&mut self) -> Result<(), Stopped> {
        let place = self.place();
        if !self.next_argument() {
            return self.stop(Fault::Missing { of: "import".into(), expected: "the name of a snippet or file".into() });
        }
        let wanted = replace(self.text(), self.sources);
        if wanted.is_empty() {
            return self.stop(Fault::Missing { of: "import".into(), expected: "the name of a snippet or file".into() });
        }
        if self.next_argument() {
            return self.stop(Fault::ImportArguments(self.text().to_owned()));
        }
        self.imports += 1;
        let tokens = match self.snippets.get(&wanted) {
            Some(tokens) => tokens.clone(),
            None => self.files(&wanted)?,
        };
        self.imported += tokens.len();
        if self.imports > IMPORTS || self.imported > TOKENS {
            self.report.problem(&place, Fault::ImportLoop);
            return Err(Stopped);
        }
        self.read.truncate(self.read.len() - 2);
        self.rest.extend(tokens.into_iter().rev());
        Ok(())
    }

    /// The words of the files that are wanted, relative to the file that wants them.
    fn files(&mut self, wanted: &str) -> Result<Vec<Token>, Stopped> {
        let place = self.place();
        let folder = place.file.rsplit_once('/').map(|(folder, _)| folder);
        let pattern = match folder {
            Some(folder) if !wanted.starts_with('/') => format!("{folder}/{wanted}"),
            _ => wanted.to_owned(),
        };
        let many = |wildcard| pattern.matches(wildcard).count() > 1;
        if many('*') || many('?') || (pattern.contains('[') && pattern.contains(']')) {
            return self.stop(Fault::ImportPattern(pattern));
        }
        let paths =
            if glob::is_pattern(&pattern) { glob::expand(&pattern, self.sources) } else { vec![pattern.clone()] };
        if paths.is_empty() {
            self.report.warning(&place, Fault::ImportNothing(wanted.to_owned()));
        }
        let mut tokens = Vec::new();
        for path in paths {
            let text = match self.sources.read(&path) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(source) => return self.stop(Fault::Read { of: "import".into(), path, source: source.into() }),
            };
            let words = token::split(&Arc::from(path), &text);
            if let Some(place) = &words.unended {
                self.report.warning(place, Fault::Quote);
            }
            tokens.extend(words.tokens);
        }
        Ok(tokens)
    }
}

/// A text with its variables, `{%NAME%}` and then `{$NAME}`, replaced. One that isn't set is empty; values may name others.
fn replace(text: &str, sources: &dyn Sources) -> String {
    let text = replace_between(text.to_owned(), "{%", "%}", sources);
    replace_between(text, "{$", "}", sources)
}

fn replace_between(mut text: String, start: &str, end: &str, sources: &dyn Sources) -> String {
    // Values that name themselves have no end.
    for _ in 0..64 {
        let Some(at) = text.find(start) else { break };
        let Some(length) = text[at..].find(end).filter(|length| *length > start.len()) else { break };
        let reference = text[at..at + length + end.len()].to_owned();
        let name = &reference[start.len()..reference.len() - end.len()];
        text = text.replace(&reference, &sources.variable(name).unwrap_or_default());
        if text.len() > TOKENS {
            break;
        }
    }
    text
}
