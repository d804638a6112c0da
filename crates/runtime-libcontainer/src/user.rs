//! Whom a container runs as: numbers as they are, names looked up in the image's `/etc/passwd` and `/etc/group`.
//!
//! Not responsible for files that are mounted over those.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use pod_runtime::RuntimeError;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// A file that lists accounts is small.
const LONGEST: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Groups that list the user as a member.
    pub(crate) groups: Vec<u32>,
}

/// `user` is `uid[:gid]` with names allowed; `layers` are an image's, lowest first.
pub(crate) fn resolve(user: &str, layers: &[PathBuf]) -> Result<User, RuntimeError> {
    if user.is_empty() {
        return Ok(User::default());
    }
    let (passwd, group) = (read("etc/passwd", layers), read("etc/group", layers));
    resolve_in(user, &passwd, &group).map_err(RuntimeError::CannotRun)
}

fn resolve_in(user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, wanted_group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().map(fields).find(|entry| match number {
        Some(uid) => entry.get(2).and_then(|field| field.parse().ok()) == Some(uid),
        None => entry.first().is_some_and(|field| field == name),
    });
    let part =
        |index: usize| entry.as_ref().and_then(|entry| entry.get(index)).and_then(|field| field.parse::<u32>().ok());
    let uid = number
        .or_else(|| part(2))
        .ok_or_else(|| format!("unable to find user {name}: no matching entries in passwd file"))?;
    let gid = match wanted_group {
        Some(text) => match text.parse() {
            Ok(gid) => gid,
            Err(_) => group_number(text, group)
                .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file"))?,
        },
        None => part(3).unwrap_or(0),
    };
    let account = entry.as_ref().and_then(|entry| entry.first()).cloned().unwrap_or_default();
    let member = |entry: &Vec<String>| {
        !account.is_empty() && entry.get(3).is_some_and(|list| list.split(',').any(|one| one == account))
    };
    let groups = group.lines().map(fields).filter(member).filter_map(|entry| entry.get(2)?.parse().ok()).collect();
    Ok(User { uid, gid, groups })
}

fn group_number(name: &str, group: &str) -> Option<u32> {
    let line = group.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The file's text in the topmost layer that has it; empty when none has, or when it was deleted.
fn read(file: &str, layers: &[PathBuf]) -> String {
    for layer in layers.iter().rev() {
        match open_inside(layer, file) {
            Ok(file) => {
                let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
                let mut bytes = Vec::new();
                if regular && file.take(LONGEST).read_to_end(&mut bytes).is_ok() {
                    return String::from_utf8_lossy(&bytes).into_owned();
                }
                return String::new();
            }
            Err(rustix::io::Errno::NOENT) => {}
            // A whiteout (no such device) or something odd: not a list of accounts.
            Err(_) => return String::new(),
        }
    }
    String::new()
}

fn open_inside(root: &Path, file: &str) -> rustix::io::Result<File> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, file, flags, Mode::empty(), inside).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/false\n";
        let group = "root:x:0:\nwww:x:44:\nlogs:x:50:web,root\n";
        let user = |uid, gid, groups: &[u32]| Ok(User { uid, gid, groups: groups.to_vec() });
        assert_eq!(resolve_in("web", passwd, group), user(33, 44, &[50]));
        assert_eq!(resolve_in("33", passwd, group), user(33, 44, &[50]));
        assert_eq!(resolve_in("web:logs", passwd, group), user(33, 50, &[50]));
        assert_eq!(resolve_in("1000", passwd, group), user(1000, 0, &[]));
        assert_eq!(resolve_in("1000:7", "", ""), user(1000, 7, &[]));
        assert!(resolve_in("nobody", passwd, group).unwrap_err().contains("nobody"));
        assert!(resolve_in("web:none", passwd, group).unwrap_err().contains("none"));
    }
}
