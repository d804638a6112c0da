//! The files of a volume, written as kubelet's atomic writer does: each version in a directory of its own, to which the
//! link `..data` leads, to which the visible names lead. Readers see one version whole or the next.
//!
//! Everything is reached from the volume's own directory by descriptors, and no link is followed: containers mount these
//! volumes to be read only, but what one finds a way to put there must not lead the agent anywhere else. Not responsible
//! for what the files hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File as Open;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    Dir, FileType, Gid, Mode, OFlags, ResolveFlags, fchmod, fchown, fstat, mkdirat, openat2, readlinkat, renameat,
    symlinkat,
};
use rustix::io::Errno;

use super::files::File;

/// What `fsGroup` adds to a file's mode.
const GROUP_MAY_READ: u32 = 0o040;
const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Nothing is written when nothing has changed.
pub(super) fn write_files(root: &Path, files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> io::Result<()> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, directory, Mode::empty())?;
    if present(&root).is_some_and(|version| holds(&version, files, group)) {
        return visible_names(&root, files);
    }
    let now = jiff::Timestamp::now();
    let version = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let made = make_dir(&root, Path::new(&version))?;
    for (path, file) in files {
        write_file(&made, path, file, group)?;
    }
    // Left by an agent that was killed.
    filetree::remove_in(&root, Path::new(NEXT))?;
    symlinkat(&version, &root, NEXT)?;
    match renameat(&root, NEXT, &root, DATA) {
        Err(Errno::ISDIR) => {
            filetree::remove_in(&root, Path::new(DATA))?;
            renameat(&root, NEXT, &root, DATA)?;
        }
        done => done?,
    }
    visible_names(&root, files)?;
    remove_versions_but(&root, &version)
}

fn open(directory: impl AsFd, path: &Path, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(directory, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::from_raw_mode(mode), resolve)
}

fn open_dir(directory: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    open(directory, path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
}

/// Must not be there yet.
fn make_dir(directory: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
    let made = open_dir(&directory, name)?;
    // Whatever the umask is.
    fchmod(&made, Mode::from_raw_mode(0o755))?;
    Ok(made)
}

fn write_file(version: &OwnedFd, path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let mut parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    parents.reverse();
    for parent in parents {
        match open_dir(version, parent) {
            Err(Errno::NOENT) => {
                let above = parent.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                make_dir(open_dir(version, above)?, Path::new(parent.file_name().unwrap_or_default()))?;
            }
            found => drop(found?),
        }
    }
    let made = open(version, path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600)?;
    let mut made = Open::from(made);
    made.write_all(&file.bytes)?;
    if let Some(group) = group {
        fchown(&made, None, Some(Gid::from_raw(group)))?;
    }
    Ok(fchmod(&made, Mode::from_raw_mode(as_given(file, group)))?)
}

fn as_given(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | GROUP_MAY_READ } else { file.mode }
}

/// The version that readers see.
fn present(root: &OwnedFd) -> Option<OwnedFd> {
    let link = readlinkat(root, DATA, Vec::new()).ok()?;
    let name = PathBuf::from(OsString::from_vec(link.into_bytes()));
    let ours = name.components().count() == 1 && name.as_os_str().as_bytes().starts_with(b"..2");
    open_dir(root, &name).ok().filter(|_| ours)
}

/// Whether a version has these files and no others. What can't be read is not as it was written.
fn holds(version: &OwnedFd, files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> bool {
    let mut found = 0;
    let mut pending = vec![PathBuf::new()];
    while let Some(inside) = pending.pop() {
        let here = if inside.as_os_str().is_empty() { Path::new(".") } else { &inside };
        let Ok(listed) = open_dir(version, here).and_then(|directory| names(&directory)) else { return false };
        for (name, kind) in listed {
            let path = inside.join(name);
            if kind == FileType::Directory {
                pending.push(path);
                continue;
            }
            let same = files.get(&path).is_some_and(|file| is_same(version, &path, file, group).unwrap_or(false));
            if !same {
                return false;
            }
            found += 1;
        }
    }
    found == files.len()
}

/// Not blocked by a pipe, not filled by a file of any size.
fn is_same(version: &OwnedFd, path: &Path, file: &File, group: Option<u32>) -> io::Result<bool> {
    let opened = open(version, path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    let stat = fstat(&opened)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || stat.st_mode & 0o777 != as_given(file, group)
        || u64::try_from(stat.st_size).ok() != u64::try_from(file.bytes.len()).ok()
    {
        return Ok(false);
    }
    let mut bytes = Vec::with_capacity(file.bytes.len());
    Open::from(opened).take(file.bytes.len() as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes == file.bytes)
}

fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<(OsString, FileType)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push((OsString::from_vec(name.to_owned()), entry.file_type()));
        }
    }
    Ok(found)
}

/// A link per name at the top, and nothing else of a name that a person could give.
fn visible_names(root: &OwnedFd, files: &BTreeMap<PathBuf, File>) -> io::Result<()> {
    let tops: BTreeSet<_> = files.keys().filter_map(|path| path.components().next()).map(|c| c.as_os_str()).collect();
    for top in &tops {
        let target = Path::new(DATA).join(top);
        let link = readlinkat(root, *top, Vec::new());
        if link.is_ok_and(|link| link.as_bytes() == target.as_os_str().as_bytes()) {
            continue;
        }
        filetree::remove_in(root, Path::new(top))?;
        symlinkat(&target, root, *top)?;
    }
    for (name, _) in names(root)? {
        if !name.as_bytes().starts_with(b"..") && !tops.contains(name.as_os_str()) {
            filetree::remove_in(root, Path::new(&name))?;
        }
    }
    Ok(())
}

fn remove_versions_but(root: &OwnedFd, version: &str) -> io::Result<()> {
    for (name, kind) in names(root)? {
        if kind == FileType::Directory && name.as_bytes().starts_with(b"..") && name != *version {
            filetree::remove_in(root, Path::new(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn files(text: &str) -> BTreeMap<PathBuf, File> {
        ["a", "d/e/b"].map(|path| (path.into(), File { bytes: text.into(), mode: 0o644 })).into()
    }

    fn text(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn a_pipe_among_the_files_keeps_nobody_waiting() {
        let dir = TempDir::new();
        write_files(dir.path(), &files("1"), None).unwrap();
        for path in ["..data/z", "..data/d/a"] {
            assert!(Command::new("mkfifo").arg(dir.path().join(path)).status().unwrap().success());
        }
        let root = dir.path().to_owned();
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(write_files(&root, &files("1"), None)));
        done.recv_timeout(std::time::Duration::from_secs(60)).expect("it waits for a writer").unwrap();
        assert_eq!(text(dir.path(), "d/e/b"), "1");
        assert!(!dir.path().join("z").exists() && !dir.path().join("..data/z").exists());
    }

    #[test]
    fn links_in_place_of_our_own_lead_nowhere() {
        let (dir, elsewhere) = (TempDir::new(), TempDir::new());
        fs::write(elsewhere.path().join("kept"), "x").unwrap();
        let root = dir.path();
        let replace = |name: &str, target: &Path| {
            filetree::remove(&root.join(name)).unwrap();
            symlink(target, root.join(name)).unwrap();
        };
        write_files(root, &files("1"), None).unwrap();
        // In place of the present version, of the link to it, of a file, of the link to come, and of an old version.
        let version = fs::read_link(root.join("..data")).unwrap();
        replace(version.to_str().unwrap(), elsewhere.path());
        replace("a", &elsewhere.path().join("kept"));
        replace("..data_tmp", elsewhere.path());
        replace("..2020", elsewhere.path());
        write_files(root, &files("1"), None).unwrap();
        assert_eq!([text(root, "a"), text(root, "d/e/b")], ["1", "1"]);
        replace("..data", elsewhere.path());
        write_files(root, &files("2"), None).unwrap();
        assert_eq!([text(root, "a"), text(root, "d/e/b")], ["2", "2"]);
        let left: Vec<_> = fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
        assert_eq!(text(elsewhere.path(), "kept"), "x");
        // Directories in the way go.
        for name in ["..data", "a", "..data_tmp", "foreign"] {
            filetree::remove(&root.join(name)).unwrap();
            fs::create_dir_all(root.join(name).join("x")).unwrap();
        }
        write_files(root, &files("3"), None).unwrap();
        assert_eq!([text(root, "a"), text(root, "d/e/b")], ["3", "3"]);
        assert!(!root.join("foreign").exists());
    }
}
