//! Whose system it is: the user who called, also through sudo, doas or pkexec, and where that user keeps state.
//!
//! Not responsible for privileges (`up/privilege`): this only says who the files are for.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid};

/// A user by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: Uid,
    pub group: Gid,
}

/// A line of the user database (passwd(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    owner: Owner,
    home: PathBuf,
}

/// Where root's own systems are.
const OF_ROOT: &str = "/var/lib/portolan";
/// Below `$XDG_STATE_HOME` (XDG Base Directory Specification).
const OF_USER: &str = "portolan";

impl Owner {
    /// The user who became root to call us; nobody for a login as root, or when nobody became root at all.
    pub fn behind_root() -> Option<Self> {
        caller(Uid::effective(), &|name| std::env::var_os(name), &account).map(|account| account.owner)
    }

    /// Gives the user a file or directory, never what a link points at.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.user.as_raw()), Some(self.group.as_raw()))
    }
}

/// The data directory of who doesn't name one.
pub fn default_data_dir() -> PathBuf {
    data_dir(Uid::effective(), &|name| std::env::var_os(name), &account)
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;
type Accounts<'a> = &'a dyn Fn(&str) -> Option<Account>;

fn data_dir(effective: Uid, variable: Variable<'_>, accounts: Accounts<'_>) -> PathBuf {
    let behind = caller(effective, variable, accounts);
    if effective.is_root() && behind.is_none() {
        return OF_ROOT.into();
    }
    // The specification has relative paths ignored.
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let home = || behind.map(|account| account.home).or_else(|| variable("HOME").and_then(absolute));
    let state = variable("XDG_STATE_HOME").and_then(absolute).or_else(|| Some(home()?.join(".local/state")));
    state.map_or_else(|| OF_ROOT.into(), |state| state.join(OF_USER))
}

/// sudo(8), pkexec(1) and doas(1) each say in their own way who called.
fn caller(effective: Uid, variable: Variable<'_>, accounts: Accounts<'_>) -> Option<Account> {
    if !effective.is_root() {
        return None;
    }
    let said = ["SUDO_UID", "PKEXEC_UID", "DOAS_USER"].iter().find_map(|name| variable(name));
    accounts(said?.to_str()?).filter(|account| !account.owner.user.is_root())
}

/// An account by name or number. `getent` knows those that are in no file of this machine.
fn account(key: &str) -> Option<Account> {
    let find = |text: &str| text.lines().filter_map(parse).find(|a| a.name == key || a.owner.user.to_string() == key);
    if let Some(found) = fs::read_to_string("/etc/passwd").ok().and_then(|text| find(&text)) {
        return Some(found);
    }
    let output = Command::new("getent").args(["passwd", key]).output().ok()?;
    find(&String::from_utf8_lossy(&output.stdout))
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?.to_owned(), fields.next()?);
    let (user, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = PathBuf::from(fields.nth(1)?);
    Some(Account { name, owner: Owner { user: Uid::from_raw(user), group: Gid::from_raw(group) }, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\n";

    fn ask(user: u32, variables: &[(&str, &str)]) -> (Option<u32>, String) {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        let accounts =
            |key: &str| PASSWD.lines().filter_map(parse).find(|a| a.name == key || a.owner.user.to_string() == key);
        let user = Uid::from_raw(user);
        let behind = caller(user, &variable, &accounts).map(|a| a.owner.user.as_raw());
        (behind, data_dir(user, &variable, &accounts).display().to_string())
    }

    #[test]
    fn the_state_folder_is_the_callers_and_only_a_root_login_has_var_lib() {
        assert_eq!(ask(0, &[("HOME", "/root")]), (None, "/var/lib/portolan".into()));
        assert_eq!(ask(0, &[("SUDO_UID", "0")]), (None, "/var/lib/portolan".into()));
        for by in [("SUDO_UID", "1000"), ("PKEXEC_UID", "1000"), ("DOAS_USER", "ada")] {
            let found = ask(0, &[by, ("HOME", "/root")]);
            assert_eq!(found, (Some(1000), "/home/ada/.local/state/portolan".into()), "{by:?}");
        }
        assert_eq!(ask(0, &[("SUDO_UID", "4242")]), (None, "/var/lib/portolan".into()));
        assert_eq!(ask(0, &[("SUDO_UID", "1000"), ("XDG_STATE_HOME", "/s")]), (Some(1000), "/s/portolan".into()));
        // Not root, so nobody is behind; a relative folder counts as none.
        let plain = ask(1000, &[("SUDO_UID", "0"), ("HOME", "/home/ada"), ("XDG_STATE_HOME", "state")]);
        assert_eq!(plain, (None, "/home/ada/.local/state/portolan".into()));
    }
}
