//! The import folder, `images/import`: what lies in it at the start is loaded, and what is put there later as well. A file
//! is loaded again only when it has changed; a bad one is reported and left where it is.
//!
//! Not responsible for how a report reaches a person.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::error::{ImageError, path_at};
use crate::store::{Image, ImageStore};

/// How long a thread waits for the folder without looking whether it still should.
const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What came of a file.
#[derive(Debug)]
pub struct Imported {
    pub file: PathBuf,
    pub result: Result<Vec<Image>, ImageError>,
}

pub struct ImportFolder {
    store: ImageStore,
    folder: PathBuf,
    watch: Arc<OwnedFd>,
}

/// What a file was when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl ImportFolder {
    /// Makes the folder and watches it.
    pub fn open(store: ImageStore) -> Result<Self, ImageError> {
        let folder = store.directory().join("import");
        fs::create_dir_all(&folder).map_err(path_at("make", folder.clone()))?;
        let watching = || -> rustix::io::Result<OwnedFd> {
            let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            inotify::add_watch(&watch, &folder, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
            Ok(watch)
        };
        let watch = watching().map_err(path_at("watch", folder.clone()))?;
        Ok(Self { store, folder, watch: Arc::new(watch) })
    }

    /// Loads what is there, then what comes, until it is stopped. One file at a time.
    pub async fn run(self, report: impl Fn(Imported) + Send, stop: CancellationToken) {
        let mut names = self.all();
        loop {
            for name in names {
                let (store, file) = (self.store.clone(), self.folder.join(name));
                let importing = spawn_blocking(move || import(&store, file));
                let imported = tokio::select! {
                    imported = importing => imported,
                    // What has come of it so far is scratch.
                    () = stop.cancelled() => return,
                };
                // A file that hasn't changed is nothing to report.
                if let Ok(Some(imported)) = imported {
                    report(imported);
                }
            }
            names = tokio::select! {
                () = stop.cancelled() => return,
                changed = self.changed() => changed,
            };
        }
    }

    fn all(&self) -> Vec<OsString> {
        let listed = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut names: Vec<OsString> = listed.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    }

    /// The files that were finished since.
    async fn changed(&self) -> Vec<OsString> {
        loop {
            let watch = self.watch.clone();
            // Polled for a while at a time, so that a runtime that ends has no thread to wait for.
            let waiting = spawn_blocking(move || finished(&watch)).await;
            match waiting {
                Ok(Some(names)) if names.is_empty() => {}
                Ok(Some(names)) => return names,
                // Events were lost: look at everything.
                Ok(None) => return self.all(),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// The names in the events of the next moment; none when some were lost.
fn finished(watch: &OwnedFd) -> Option<Vec<OsString>> {
    let mut ready = [PollFd::new(watch, PollFlags::IN)];
    let _ = poll(&mut ready, Some(&TURN));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => return None,
            Ok(event) => names.extend(event.file_name().map(name)),
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    names.dedup();
    Some(names)
}

fn name(name: &std::ffi::CStr) -> OsString {
    use std::os::unix::ffi::OsStringExt as _;
    OsString::from_vec(name.to_bytes().to_vec())
}

/// Loads a file that isn't loaded yet, as it is now. Hidden ones are others' business: editors' and copiers' temporary files.
fn import(store: &ImageStore, file: PathBuf) -> Option<Imported> {
    let name = file.file_name()?.to_str()?.to_owned();
    if name.starts_with('.') {
        return None;
    }
    let metadata = fs::metadata(&file).ok()?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Some(Imported { file, result: Err(ImageError::NoFile) });
    }
    let seen = Seen::of(&metadata);
    let record = store.directory().join("imported.json");
    let mut known: BTreeMap<String, Seen> =
        fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if known.get(&name) == Some(&seen) {
        return None;
    }
    let result = store.import_path(&file, None);
    if result.is_ok() {
        known.insert(name, seen);
        known.retain(|name, _| file.with_file_name(name).exists());
        if let Err(error) = save(&record, &known) {
            tracing::warn!(%error, path = %record.display(), "cannot write down what was imported: it will be again");
        }
    }
    Some(Imported { file, result })
}

fn save(path: &std::path::Path, known: &BTreeMap<String, Seen>) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec_pretty(known)?)?;
    fs::rename(temporary, path)
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.size(), seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() }
    }
}
