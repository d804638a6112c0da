//! A file system as the kernel takes it at boot: a cpio archive in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const END: &str = "TRAILER!!!";

#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    pub fn folder(&mut self, path: &str) {
        self.parents(path);
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER, &[]);
        }
    }

    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, content);
    }

    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE, content);
    }

    /// A folder of the host with all its files.
    pub fn tree(&mut self, from: &Path, path: &str) -> Result<()> {
        self.folder(path);
        for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let to = format!("{path}/{}", name.to_str().context("a file's name")?);
            if entry.file_type()?.is_dir() {
                self.tree(&entry.path(), &to)?;
            } else {
                self.file(&to, &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let slashes: Vec<usize> = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at).collect();
        for at in slashes {
            self.folder(&path[..at]);
        }
    }

    /// Thirteen numbers of eight hexadecimal digits, the name, the content; name and content are padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let numbers =
            [self.entries, mode, 0, 0, links, 0, length(content.len()), 0, 0, 0, 0, length(name.len() + 1), 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.program("/a/b/one", b"#!");
        archive.file("/a/b/two", b"");
        let text = String::from_utf8(archive.finish()).unwrap();
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/one") && at("a/b/one") < at("a/b/two"));
        assert_eq!(text.matches("070701").count(), 5, "two folders, two files, the end");
        assert_eq!(text.len() % 4, 0);
    }
}
