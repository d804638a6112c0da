//! Where a Corefile gets its variables and the files it names. Not responsible for reading any: the caller does.

use std::collections::BTreeMap;
use std::io;

/// What is outside of a Corefile.
pub trait Sources {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// The contents of a file. A directory is an error.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
    /// The names in a directory.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
}

/// Variables and files that are given.
#[derive(Debug, Clone, Default)]
pub struct Fixed {
    pub variables: BTreeMap<String, String>,
    /// By absolute path.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Fixed {
    /// Adds a file.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.as_bytes().to_vec());
        self
    }

    /// Adds a variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl Sources for Fixed {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let inside = format!("{}/", directory.trim_end_matches('/'));
        let names = self.files.keys().filter_map(|path| path.strip_prefix(&inside)?.split('/').next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }
}
