//! What a disk holds after a crash: everything synced, and of the rest whatever the disk happened to write.
//!
//! A sector of 512 bytes is written whole or not at all; what wasn't synced may be there in any combination. Not
//! responsible for recording (`recorder`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::recorder::Happened;

const SECTOR: usize = 512;

/// How a crash treats what wasn't synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: the kernel still writes everything.
    Killed,
    /// The power failed: nothing of it is there.
    Lost,
    /// Any sectors of it are there.
    Torn,
    /// Everything but the last write, of which only the beginning is there.
    CutShort,
}

impl Crash {
    pub const ALL: [Crash; 4] = [Crash::Killed, Crash::Lost, Crash::Torn, Crash::CutShort];
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { length: usize },
    Delete,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Option<Vec<u8>>,
    pending: Vec<Change>,
}

/// A disk in the middle of a history.
#[derive(Clone, Debug, Default)]
pub struct Disk(BTreeMap<String, File>);

impl Disk {
    /// What lies in a directory now, taken for durable.
    pub fn of(directory: &Path) -> Disk {
        let mut disk = Disk::default();
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if !name.ends_with("-shm") && !name.ends_with(".lock") {
                disk.0.insert(name, File { durable: Some(fs::read(entry.path()).unwrap()), pending: Vec::new() });
            }
        }
        disk
    }

    pub fn apply(&mut self, happened: &Happened, random: &mut StdRng) {
        match happened {
            Happened::Write { file, offset, bytes } => {
                self.change(file, Change::Write { offset: *offset, bytes: bytes.clone() });
            }
            Happened::Truncate { file, length } => self.change(file, Change::Truncate { length: *length }),
            Happened::Delete { file } => self.change(file, Change::Delete),
            Happened::Sync { file } => self.sync(file),
            Happened::FailedSync { file } => {
                // What didn't reach the disk counts as clean from now on: no later sync writes it.
                let file = self.0.entry(file.clone()).or_default();
                file.pending = file.pending.iter().filter_map(|c| part(c, random, true)).collect();
                let lost = file.pending.clone();
                lost.iter().for_each(|change| file.settle(change));
                file.pending.clear();
            }
            Happened::Acknowledged { .. } | Happened::Compacted { .. } => {}
        }
    }

    fn change(&mut self, file: &str, change: Change) {
        self.0.entry(file.to_owned()).or_default().pending.push(change);
    }

    fn sync(&mut self, file: &str) {
        let file = self.0.entry(file.to_owned()).or_default();
        for change in std::mem::take(&mut file.pending) {
            file.settle(&change);
        }
    }

    /// Writes down what is left of it after a crash.
    pub fn crash(&self, crash: Crash, directory: &Path, random: &mut StdRng) {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
        for (name, file) in &self.0 {
            let mut left = file.clone();
            let last = left.pending.len().saturating_sub(1);
            for (index, change) in std::mem::take(&mut left.pending).iter().enumerate() {
                let survives = match crash {
                    Crash::Killed => Some(change.clone()),
                    Crash::Lost => None,
                    Crash::Torn => part(change, random, true),
                    Crash::CutShort if index < last => Some(change.clone()),
                    Crash::CutShort => part(change, random, false),
                };
                survives.iter().for_each(|change| left.settle(change));
            }
            if let Some(bytes) = left.durable {
                fs::write(directory.join(name), bytes).unwrap();
            }
        }
    }
}

impl File {
    fn settle(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => {
                let content = self.durable.get_or_insert_default();
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Change::Truncate { length } => self.durable.get_or_insert_default().resize(*length, 0),
            Change::Delete => self.durable = None,
        }
    }
}

/// What a disk that was interrupted wrote of one change: any sectors (`scattered`), or the first ones.
fn part(change: &Change, random: &mut StdRng, scattered: bool) -> Option<Change> {
    let Change::Write { offset, bytes } = change else { return random.random_bool(0.5).then(|| change.clone()) };
    let first = SECTOR - offset % SECTOR;
    let cut = |index: usize| (first + index * SECTOR).min(bytes.len());
    let sectors = (0..).take_while(|index| *index == 0 || cut(index - 1) < bytes.len()).count();
    // Changes of a file are whole far more often than torn, or nothing long would ever survive.
    if scattered && random.random_bool(0.4) {
        return random.random_bool(0.5).then(|| change.clone());
    }
    let begin = if scattered { random.random_range(0..=sectors) } else { 0 };
    let end = random.random_range(begin..=sectors);
    let from = if begin == 0 { 0 } else { cut(begin - 1) };
    let to = if end == 0 { 0 } else { cut(end - 1) };
    (from < to).then(|| Change::Write { offset: offset + from, bytes: bytes[from..to].to_vec() })
}

/// Flips one to sixteen bytes in a row; answers where.
pub fn damage(bytes: &mut [u8], random: &mut StdRng) -> std::ops::Range<usize> {
    let begin = random.random_range(0..bytes.len());
    let end = (begin + random.random_range(1..=16)).min(bytes.len());
    for byte in &mut bytes[begin..end] {
        *byte ^= u8::try_from(random.next_u32() % 255 + 1).unwrap();
    }
    begin..end
}
