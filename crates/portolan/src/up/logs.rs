//! Bounds the files in the log directory, which others hold open for as long as they run. Says nothing about what is
//! logged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;

/// What a log may have grown to when it is looked at, in bytes, and what is kept of it in `NAME.log.1`.
const LONGEST: u64 = 16 << 20;

/// Moves the end of each overlong log to `NAME.log.1` and empties the log. It stays the same file, since its writers append
/// to it (`O_APPEND`); a line that is written meanwhile may be lost. The first failure is told after all were looked at.
pub fn bound(directory: &Path) -> io::Result<()> {
    bound_to(directory, LONGEST)
}

fn bound_to(directory: &Path, longest: u64) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // The directory belongs to the user who called: nothing is done to what their links point at.
        if path.extension().is_some_and(|extension| extension == "log") && entry.file_type()?.is_file() {
            result = result.and(bound_one(&path, longest));
        }
    }
    result
}

fn bound_one(path: &Path, longest: u64) -> io::Result<()> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(io::Error::other)?;
    let mut log = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    let found = log.metadata()?;
    if !found.is_file() || found.nlink() != 1 || found.len() <= longest {
        return Ok(());
    }
    let kept = log.seek(SeekFrom::Start(found.len() - longest)).and_then(|_| keep(&mut log, &found, path, longest));
    // On a full disk nothing can be kept, and room is what is needed.
    log.set_len(0)?;
    kept
}

fn keep(log: &mut File, found: &fs::Metadata, path: &Path, longest: u64) -> io::Result<()> {
    let (older, new) = (path.with_extension("log.1"), path.with_extension("log.new"));
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    fchown(&copy, Some(found.uid()), Some(found.gid()))?;
    let copied = io::copy(&mut log.take(longest), &mut copy);
    if copied.is_err() {
        fs::remove_file(&new)?;
    }
    copied?;
    fs::rename(&new, &older)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_overlong_log_keeps_its_end_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        let mut writer = OpenOptions::new().create(true).append(true).open(dir.path().join("node-1.log")).unwrap();
        fs::write(dir.path().join("short.log"), "short").unwrap();
        writer.write_all(b"a long story\n").unwrap();
        bound_to(dir.path(), 6).unwrap();
        writer.write_all(b"and\n").unwrap();
        assert_eq!((read("node-1.log.1").as_str(), read("node-1.log").as_str()), ("story\n", "and\n"));
        bound_to(dir.path(), 6).unwrap();
        assert_eq!((read("node-1.log.1").as_str(), read("short.log").as_str()), ("story\n", "short"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn nothing_is_done_to_what_a_link_points_at() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (theirs, own) = (elsewhere.path().join("theirs"), dir.path().join("own.log"));
        fs::write(&theirs, "somebody's words").unwrap();
        fs::write(&own, "our own words").unwrap();
        symlink(&theirs, dir.path().join("linked.log")).unwrap();
        fs::hard_link(&theirs, dir.path().join("named.log")).unwrap();
        symlink(&theirs, dir.path().join("own.log.1")).unwrap();
        symlink(&theirs, dir.path().join("own.log.new")).unwrap();
        bound_to(dir.path(), 5).unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "somebody's words");
        assert_eq!(fs::read_to_string(dir.path().join("own.log.1")).unwrap(), "words");
        assert_eq!(fs::read_to_string(own).unwrap(), "");
    }
}
