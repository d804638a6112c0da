//! The data directory: where everything lies, and who may use it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Owner;

/// Held by whoever runs the system; says who that is.
pub(super) const LOCK: &str = "lock";
/// What a data directory is known by.
const MARK: &str = "PORTOLAN";
const MARK_TEXT: &str =
    "A Portolan system keeps its data here. To remove it: portolan down --purge --data-dir DIRECTORY\n";
/// Containers' files are in these, with the owners that containers know: they stay as they are.
const OF_CONTAINERS: [&str; 2] = ["images", "nodes"];
/// What may be in a directory before it becomes ours: archives to import, and what a new file system has.
const BEFOREHAND: [&str; 2] = ["images", "lost+found"];
/// Where a person puts archives.
const IMPORT: [&str; 2] = ["images", "images/import"];
/// How long a process that was killed may take to let go of the lock, and how often to look.
const DYING: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// A system's directory, by its absolute path.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// Held by the supervisor for as long as it runs; the file names it.
pub struct Lock(#[allow(dead_code, reason = "dropping it unlocks")] File);

impl DataDir {
    /// The directory a command names, made when it isn't there (mode 0700, the calling user's). Refuses one that has
    /// something else in it.
    pub fn create(path: &Path) -> Result<Self> {
        let making = || format!("cannot make the data directory {}; choose another with --data-dir", path.display());
        let path = std::path::absolute(path).with_context(making)?;
        let owner = Owner::behind_root();
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(dir) {
                // Somebody else was as quick.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.with_context(making)?,
            }
            if let Some(owner) = owner {
                owner.give(dir).with_context(making)?;
            }
        }
        let mut entries = fs::read_dir(&path).with_context(making)?;
        if !DataDir::is_one(&path) {
            let foreign =
                |entry: io::Result<fs::DirEntry>| !entry.is_ok_and(|e| BEFOREHAND.iter().any(|n| e.file_name() == *n));
            if entries.any(foreign) {
                bail!(
                    "{} has files in it that are no Portolan system's; name a new or empty directory with --data-dir",
                    path.display()
                );
            }
            fs::write(path.join(MARK), MARK_TEXT).with_context(making)?;
        }
        let dir = Self::open(&path)?;
        dir.hand_over()?;
        Ok(dir)
    }

    /// Whether a system's data is in the directory.
    pub fn is_one(path: &Path) -> bool {
        path.join(MARK).is_file()
    }

    /// Fails when the directory is somebody else's: nothing in it is touched.
    pub fn check_ours(&self) -> Result<()> {
        if !DataDir::is_one(&self.0) {
            bail!("{} is no data directory of Portolan (it has no file {MARK}); nothing was touched", self.0.display());
        }
        Ok(())
    }

    /// Gives everything to the user who called by way of sudo or the like, except containers' files.
    pub fn hand_over(&self) -> Result<()> {
        let Some(owner) = Owner::behind_root() else { return Ok(()) };
        let giving = || format!("cannot give {} to user {}", self.0.display(), owner.user);
        owner.give(&self.0).with_context(giving)?;
        for entry in fs::read_dir(&self.0).with_context(giving)? {
            let entry = entry.with_context(giving)?;
            if OF_CONTAINERS.iter().all(|name| entry.file_name() != *name) {
                give_all(owner, &entry.path()).with_context(giving)?;
            }
        }
        for dir in IMPORT.map(|dir| self.0.join(dir)).iter().filter(|dir| dir.is_dir()) {
            owner.give(dir).with_context(giving)?;
        }
        Ok(())
    }

    /// Removes the directory and everything in it. The caller holds the lock.
    pub fn remove(&self, _lock: Lock) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read what is mounted")?;
        let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(mount_point);
        if let Some(point) = points.find(|point| point.starts_with(&self.0) && *point != self.0) {
            bail!("{} is mounted in the data directory; unmount it first", point.display());
        }
        match filetree::remove(&self.0) {
            // The directory itself is a mount point: what was in it is gone.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            other => other.with_context(|| format!("cannot remove {}", self.0.display())),
        }
    }

    /// The directory a command names, which must be there.
    pub fn open(path: &Path) -> Result<Self> {
        let opening =
            || format!("there is no data directory {}; name the one `up` uses with --data-dir", path.display());
        Ok(DataDir(path.canonicalize().with_context(opening)?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The API's objects (SQLite).
    pub fn database(&self) -> PathBuf {
        self.0.join("state.db")
    }

    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What exists only while the system runs: sockets and the record of what runs.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// What the supervisor serves to nodes. They see the directory: the sockets in it are others after the supervisor
    /// was replaced.
    pub fn sockets(&self) -> PathBuf {
        self.run().join("sockets")
    }

    pub fn api_socket(&self) -> PathBuf {
        self.sockets().join("api.sock")
    }

    /// Where nodes ask for images to be pulled.
    pub fn pull_socket(&self) -> PathBuf {
        self.sockets().join("pull.sock")
    }

    /// The directories of all nodes.
    pub fn nodes(&self) -> PathBuf {
        self.0.join("nodes")
    }

    /// A node's own directory: its agent's state, its pods' files and logs.
    pub fn node(&self, node: &str) -> PathBuf {
        self.nodes().join(node)
    }

    /// Where a node's agent listens for logs and the like.
    pub fn kubelet_dir(&self, node: &str) -> PathBuf {
        self.run().join("kubelet").join(node)
    }

    pub(super) fn record(&self) -> PathBuf {
        self.run().join("system.json")
    }

    /// Every container's cgroup is in this one, below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("portolan/{}", self.id())
    }

    /// Short, and the same for the same directory: what cgroups and links are marked with.
    pub fn id(&self) -> String {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("{:08x}", hasher.finish() as u32)
    }

    /// Makes a directory below this one, with its parents.
    pub fn make(&self, path: &Path) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))
    }

    /// Takes the directory for this process, or says which one has it. One that was killed lets go when the last of its
    /// threads has ended: that is waited for.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.0.join(LOCK);
        let opening = || format!("cannot open {}", path.display());
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).with_context(opening)?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(e) => return Err(io::Error::from(e)).with_context(|| format!("cannot lock {}", path.display())),
            }
            let mut holder = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut holder)).with_context(opening)?;
            if lives(holder.trim()) || begun.elapsed() > DYING {
                bail!(
                    "a system already runs on {} (process {}); end it with `portolan down --data-dir {}` or choose \
                     another directory with --data-dir",
                    self.0.display(),
                    holder.trim(),
                    self.0.display()
                );
            }
            std::thread::sleep(PAUSE);
        }
        file.set_len(0).and_then(|()| file.rewind()).with_context(opening)?;
        writeln!(file, "{}", std::process::id()).with_context(opening)?;
        Ok(Lock(file))
    }

    /// Whether somebody holds the lock.
    pub fn locked(&self) -> Result<bool> {
        let path = self.0.join(LOCK);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(io::Error::from(e)).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Whether the process runs and goes on running: SIGKILL, once sent, is pending in each thread until that is gone.
fn lives(process: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    const SIGKILL: u64 = 1 << (9 - 1);
    let killed = ["SigPnd:", "ShdPnd:"].iter().any(|name| {
        field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & SIGKILL != 0)
    });
    field("State:").is_some_and(|state| !state.starts_with(['Z', 'X'])) && !killed
}

fn give_all(owner: Owner, path: &Path) -> io::Result<()> {
    let given = owner.give(path).and_then(|()| {
        if path.symlink_metadata()?.is_dir() {
            for entry in fs::read_dir(path)? {
                give_all(owner, &entry?.path())?;
            }
        }
        Ok(())
    });
    match given {
        // Some files (a database's journal, a socket) come and go while the system runs.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A path as /proc/PID/mountinfo has it: blanks and backslashes are three octal digits (proc_pid_mountinfo(5)).
fn mount_point(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *first == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let points =
            [("/a\\040b/c", "/a b/c"), ("/a\\134040", "/a\\040"), ("/plain\\", "/plain\\"), ("/\\9é", "/\\9é")];
        for (field, path) in points {
            assert_eq!(mount_point(field), Path::new(path), "{field}");
        }
    }

    #[test]
    fn one_system_at_a_time_and_the_second_is_told_who_has_it() {
        let path = std::env::temp_dir().join(format!("portolan-lock-{}", std::process::id()));
        let dir = DataDir::create(&path).unwrap();
        assert!(!dir.locked().unwrap());
        let lock = dir.lock().unwrap();
        assert!(dir.locked().unwrap());
        let error = dir.lock().err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert!(!dir.locked().unwrap());
        dir.remove(dir.lock().unwrap()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_refused_and_kept() {
        let path = std::env::temp_dir().join(format!("portolan-foreign-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("thesis.tex"), "precious").unwrap();
        let error = DataDir::create(&path).unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_process_that_is_gone_does_not_live() {
        assert!(lives(&std::process::id().to_string()));
        assert!(!lives("") && !lives("4194304999"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id().to_string();
        while lives(&id) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
