//! What can be wrong with a Corefile, in words for whoever wrote it: the place, what was expected, and the fix. Not
//! responsible for finding any of it.

use std::fmt::{Display, Formatter};
use std::io;
use std::sync::Arc;

use crate::{Place, plugin};

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    pub place: Place,
    pub fault: Fault,
}

/// Everything that is wrong, file by file in their order. Never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

/// What is wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    #[error("there is no plugin {0:?}")]
    UnknownPlugin(String),
    #[error("CoreDNS's plugin {0} isn't supported here")]
    UnsupportedPlugin(String),
    #[error("{plugin} has no option {option:?}")]
    UnknownOption { plugin: &'static str, option: String, known: &'static [&'static str] },
    #[error("CoreDNS's option {option} of {plugin} isn't supported here")]
    UnsupportedOption { plugin: &'static str, option: String, instead: &'static str },
    #[error("{of} needs {expected}")]
    Missing { of: String, expected: String },
    #[error("{found:?} is too much for {of}, which takes {expected}")]
    Excess { of: String, found: String, expected: String },
    #[error("{value:?} of {of} is not {expected}")]
    Value { of: String, value: String, expected: String },
    #[error("{of} has a block where it takes none")]
    Block { of: String },
    #[error("{0} is there a second time in this server block")]
    Again(String),
    #[error("{problem}")]
    Together { problem: String, fix: &'static str },
    #[error("{path:?} of {of} can't be read: {source}")]
    Read { of: String, path: String, source: Arc<io::Error> },
    #[error("{found:?} stands where {expected} is expected")]
    Unexpected { found: String, expected: &'static str },
    #[error("the file ends where {expected} is expected")]
    End { expected: &'static str },
    #[error("nothing ends the quoted word that begins here")]
    Quote,
    #[error("the snippet {0} is there already")]
    SnippetAgain(String),
    #[error("imports go on without end")]
    ImportLoop,
    #[error("import takes one name of a snippet, of a file or of files, but not {0:?} after it")]
    ImportArguments(String),
    #[error("the pattern {0:?} of an import has more than one wildcard of a kind, or a range")]
    ImportPattern(String),
    #[error("no file is named by {0:?}, so nothing is imported")]
    ImportNothing(String),
    #[error("{key:?} can't be served: {because}")]
    Key { key: String, because: &'static str },
    #[error("{key} is served already, by the server block of line {line}")]
    Served { key: String, line: u32 },
    #[error("{what} is left out, as CoreDNS does")]
    LeftOut { what: String },
}

impl Fault {
    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            Fault::UnknownPlugin(name) => match nearest(name, plugin::names()) {
                Some(near) => format!("is {near} meant?"),
                None => "remove its lines; if they are a server block, its keys and a brace must be on one line".into(),
            },
            Fault::UnsupportedPlugin(_) => "remove its lines, or keep CoreDNS for what needs it".into(),
            Fault::UnknownOption { option, known: [], .. } => format!("remove {option:?}: there are no options"),
            Fault::UnknownOption { option, known, .. } => match nearest(option, known.iter().copied()) {
                Some(near) => format!("is {near} meant?"),
                None => format!("there are {}", known.join(", ")),
            },
            Fault::UnsupportedOption { instead, .. } => (*instead).into(),
            Fault::Missing { expected, .. } => format!("write {expected} after it, on the same line"),
            Fault::Excess { found, .. } => format!("remove {found:?}, or put it on a line of its own"),
            Fault::Value { expected, .. } => format!("give {expected}"),
            Fault::Block { .. } => "remove the braces and what is between".into(),
            Fault::Again(_) => "put everything into one".into(),
            Fault::Together { fix, .. } => (*fix).into(),
            Fault::Read { .. } => "correct the path, or provide the file".into(),
            Fault::Unexpected { expected, .. } | Fault::End { expected } => format!("put {expected} there"),
            Fault::Quote => "put a quote at its end".into(),
            Fault::SnippetAgain(_) => "rename one of them".into(),
            Fault::ImportLoop => "let no snippet and no file import itself, by others neither".into(),
            Fault::ImportArguments(_) => "CoreDNS's snippets have no arguments: write a snippet for each case".into(),
            Fault::ImportPattern(_) => "keep one * and one ? at the most".into(),
            Fault::ImportNothing(_) => "that is no error: remove the line if none is to come".into(),
            Fault::Key { .. } => "keys are [SCHEME://]ZONE[:PORT], where a zone is a name or a CIDR".into(),
            Fault::Served { .. } => "give one of them another zone, port or address".into(),
            Fault::LeftOut { .. } => "remove it".into(),
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.fault, self.fault.fix())
    }
}

impl Display for Problems {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if number > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// What is found on the way.
#[derive(Default)]
pub(crate) struct Report {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Report {
    pub(crate) fn problem(&mut self, place: &Place, fault: Fault) {
        self.problems.push(Problem { place: place.clone(), fault });
    }

    pub(crate) fn warning(&mut self, place: &Place, fault: Fault) {
        self.warnings.push(Problem { place: place.clone(), fault });
    }

    pub(crate) fn finish(mut self) -> Problems {
        self.problems.sort_by_cached_key(|problem| problem.place.clone());
        Problems(self.problems)
    }
}

/// The known word that is probably meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|name| (strsim::damerau_levenshtein(&word.to_lowercase(), name), name)).min()?;
    (near.0 <= 2 && near.0 < near.1.len()).then_some(near.1)
}
