//! Manifests: reading them from files, naming their mistakes, applying them to the API, following and pruning them.

mod apply;
mod documents;
mod files;
mod mark;
mod prune;
mod watch;

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

pub use apply::{Applied, Change, Outcome, apply, repeated};
pub use files::{STDIN, read};
pub use prune::prune;
pub use watch::Watch;

/// An object and where it was read. It has an apiVersion, a kind and a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub source: Source,
    pub object: Value,
}

/// A document of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the user named it; `-` is standard input.
    pub file: PathBuf,
    /// From 1.
    pub document: usize,
    /// Where the document begins, from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file.as_os_str() == files::STDIN { "standard input" } else { &*self.file.to_string_lossy() };
        write!(f, "{file}, document {} (line {})", self.document, self.line)
    }
}

impl Manifest {
    pub fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }
}

/// `app.yaml, document 2 (line 14), Service web`
impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        write!(f, "{}, {} {namespace}{}", self.source, self.kind(), self.name())
    }
}
