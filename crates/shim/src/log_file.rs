//! The file a container's output goes to. One that would grow beyond its limit is put aside as `.1`, the one before as
//! `.2` and so on, so that a flood of output takes a bounded part of the disk.
//!
//! Not responsible for the lines in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::record::LogLimit;

pub(crate) struct LogFile {
    path: PathBuf,
    limit: LogLimit,
    file: File,
    size: u64,
}

impl LogFile {
    /// Goes on where an earlier one ended.
    pub(crate) fn open(path: &Path, limit: LogLimit) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limit, file, size })
    }

    /// Writes whole lines.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self.size > 0 && self.size + length > self.limit.file_bytes {
            self.rotate()?;
        }
        self.size += length;
        self.file.write_all(lines)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let oldest = self.limit.files.saturating_sub(1);
        for number in (1..oldest).rev() {
            rename(&self.aside(number), &self.aside(number + 1))?;
        }
        if oldest > 0 {
            rename(&self.path, &self.aside(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What isn't there needs no other name.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_keeps_the_newest_lines_in_bounded_files() {
        let directory = std::env::temp_dir().join(format!("log-file-{}", std::process::id()));
        let path = directory.join("0.log");
        let limit = LogLimit { file_bytes: 40, files: 3 };
        for part in [0..50, 50..100] {
            let mut log = LogFile::open(&path, limit).unwrap();
            for number in part {
                log.append(format!("line {number:04}\n").as_bytes()).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        let kept: String = ["0.log.2", "0.log.1", "0.log"]
            .iter()
            .map(|name| fs::read_to_string(directory.join(name)).unwrap())
            .collect();
        fs::remove_dir_all(&directory).unwrap();
        let last: String = (88..100).map(|number| format!("line {number:04}\n")).collect();
        assert_eq!(kept, last);
    }
}
