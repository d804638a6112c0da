//! Notices that files were saved, in whatever way an editor does it: written in place, or written beside and renamed
//! (inotify(7)). Says so when the files have settled, so that half of one isn't read. Not responsible for reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::files::is_manifest;

/// How long nothing may happen before the files are taken as they are.
const QUIET: Duration = Duration::from_millis(100);
/// The same when somebody has one open for writing: an editor writes on, or is stuck.
const OPEN: Duration = Duration::from_secs(5);
/// How often to look for a directory that is gone.
const GONE: Duration = Duration::from_secs(1);
/// What ConfigMap volumes switch their files by.
const DATA: &str = "..data";

/// Files and directories that are watched.
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    paths: Vec<PathBuf>,
    /// By inotify's number: a directory, and what in it is of interest.
    watched: BTreeMap<i32, (PathBuf, Interest)>,
    /// Files that are being written.
    open: BTreeSet<(i32, OsString)>,
}

/// Which of a directory's files are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Interest {
    manifests: bool,
    names: BTreeSet<OsString>,
}

impl Watch {
    /// Begins to watch. What changes from now on isn't missed.
    pub fn start(paths: &[PathBuf]) -> Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("cannot watch files")?;
        #[allow(deprecated, reason = "its unsafe successor is for descriptors that somebody else may close")]
        let inotify = AsyncFd::new(inotify).context("cannot watch files")?;
        let mut watch = Watch { inotify, paths: paths.to_vec(), watched: BTreeMap::new(), open: BTreeSet::new() };
        watch.look()?;
        Ok(watch)
    }

    /// Waits until something changed and is whole.
    pub async fn settled(&mut self) -> Result<()> {
        while !self.changed_or_gone().await? {}
        loop {
            let patience = if self.open.is_empty() { QUIET } else { OPEN };
            match tokio::time::timeout(patience, self.changed()).await {
                Ok(changed) => changed?,
                Err(_) => break,
            }
        }
        self.open.clear();
        self.look()?;
        Ok(())
    }

    /// Whether something changed; otherwise it's time to look for a directory that is gone.
    async fn changed_or_gone(&mut self) -> Result<bool> {
        if self.directories().iter().all(|(dir, _)| self.watched.values().any(|(known, _)| known == dir)) {
            return self.changed().await.map(|()| true);
        }
        match tokio::time::timeout(GONE, self.changed()).await {
            Ok(changed) => changed.map(|()| true),
            Err(_) => self.look(),
        }
    }

    /// Watches every directory that is there. Says whether one is new.
    fn look(&mut self) -> Result<bool> {
        let mut new = false;
        let mut watched = BTreeMap::new();
        for (dir, interest) in self.directories() {
            let flags = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            match inotify::add_watch(self.inotify.get_ref(), &dir, flags) {
                Ok(number) => {
                    new |= !self.watched.contains_key(&number);
                    watched.insert(number, (dir, interest));
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(e).with_context(|| format!("cannot watch {}", dir.display())),
            }
        }
        self.watched = watched;
        Ok(new)
    }

    /// The directories that the paths lie in, or are, also where links lead to.
    fn directories(&self) -> Vec<(PathBuf, Interest)> {
        let mut found: BTreeMap<PathBuf, Interest> = BTreeMap::new();
        for path in &self.paths {
            if path.is_dir() {
                found.entry(path.clone()).or_default().manifests = true;
                continue;
            }
            let target = path.canonicalize().ok();
            for file in [Some(path), target.as_ref()].into_iter().flatten() {
                let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let names = &mut found.entry(parent.to_owned()).or_default().names;
                names.extend(file.file_name().map(OsStr::to_owned));
                names.insert(DATA.into());
            }
        }
        found.into_iter().collect()
    }

    /// Waits until something of interest happened, and takes in everything that has.
    async fn changed(&mut self) -> Result<()> {
        loop {
            let events = {
                let mut ready = self.inotify.readable().await.context("cannot watch files")?;
                let events = read(self.inotify.get_ref()).context("cannot watch files")?;
                ready.clear_ready();
                events
            };
            let mut relevant = false;
            for (number, flags, name) in events {
                relevant |= self.take(number, flags, &name);
            }
            if relevant {
                return Ok(());
            }
        }
    }

    /// Whether the event is of interest.
    fn take(&mut self, number: i32, flags: ReadFlags, name: &OsStr) -> bool {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        if flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            return self.watched.remove(&number).is_some();
        }
        let Some((dir, interest)) = self.watched.get(&number) else { return false };
        let manifest = interest.manifests && (is_manifest(Path::new(name)) || name == DATA);
        if !manifest && !interest.names.contains(name) {
            return false;
        }
        let file = (number, name.to_owned());
        if flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO | ReadFlags::DELETE) {
            self.open.remove(&file);
        } else if flags.contains(ReadFlags::MODIFY) || flags.contains(ReadFlags::CREATE) && is_new(&dir.join(name)) {
            self.open.insert(file);
        }
        true
    }
}

/// Whether a file that has just appeared was opened for that: links come whole.
fn is_new(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|file| file.is_file() && file.nlink() == 1)
}

/// Everything that waits to be read.
fn read(inotify: &OwnedFd) -> Result<Vec<(i32, ReadFlags, OsString)>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                events.push((event.wd(), event.events(), name.unwrap_or_default()));
            }
            Err(Errno::WOULDBLOCK) => return Ok(events),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("portolan-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn settles(watch: &mut Watch) {
        tokio::time::timeout(LONG, watch.settled()).await.expect("it settles").unwrap();
    }

    #[tokio::test]
    async fn every_way_of_saving_is_noticed_and_other_files_are_not() {
        let scratch = Scratch::new("ways");
        let (file, beside) = (scratch.0.join("app.yaml"), scratch.0.join("app.yaml.tmp"));
        fs::write(&file, "a: 1\n").unwrap();
        let mut watches = [
            Watch::start(std::slice::from_ref(&file)).unwrap(),
            Watch::start(std::slice::from_ref(&scratch.0)).unwrap(),
        ];
        let save_in_place = || fs::write(&file, "a: 2\n").unwrap();
        let save_beside = || {
            fs::write(&beside, "a: 3\n").unwrap();
            fs::rename(&beside, &file).unwrap();
        };
        let save_with_backup = || {
            fs::rename(&file, scratch.0.join("app.yaml~")).unwrap();
            fs::write(&file, "a: 4\n").unwrap();
        };
        let delete = || fs::remove_file(&file).unwrap();
        let link = || std::os::unix::fs::symlink("app.yaml~", &file).unwrap();
        let ways: [&dyn Fn(); 5] = [&save_in_place, &save_beside, &save_with_backup, &delete, &link];
        for way in ways {
            way();
            for watch in &mut watches {
                settles(watch).await;
            }
        }
        fs::write(scratch.0.join("notes.txt"), "nothing").unwrap();
        fs::write(scratch.0.join(".app.yaml.swp"), "nothing").unwrap();
        for watch in &mut watches {
            assert!(tokio::time::timeout(QUIET * 2, watch.settled()).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_file_is_whole_when_its_writer_closes_it() {
        let scratch = Scratch::new("open");
        let file = scratch.0.join("app.yaml");
        fs::write(&file, "a: 1\n").unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&file)).unwrap();
        let mut writer = fs::File::create(&file).unwrap();
        writer.write_all(b"a: ").unwrap();
        assert!(tokio::time::timeout(QUIET * 3, watch.settled()).await.is_err(), "half a file was taken");
        writer.write_all(b"2\n").unwrap();
        drop(writer);
        settles(&mut watch).await;
        assert_eq!(fs::read_to_string(&file).unwrap(), "a: 2\n");
    }

    #[tokio::test]
    async fn a_directory_that_comes_back_is_watched_again() {
        let scratch = Scratch::new("gone");
        let dir = scratch.0.join("k8s");
        fs::create_dir(&dir).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&dir)).unwrap();
        fs::remove_dir(&dir).unwrap();
        settles(&mut watch).await;
        fs::create_dir(&dir).unwrap();
        settles(&mut watch).await;
        fs::write(dir.join("app.yaml"), "a: 1\n").unwrap();
        settles(&mut watch).await;
    }
}
