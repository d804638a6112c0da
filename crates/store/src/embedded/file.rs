//! The store's file as a file: made whole or not at all, locked by one process, checked before SQLite touches it.
//!
//! Not responsible for what is in it (`disk`).

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::log;
use crate::{Damage, Obstacle, OpenError};

/// Makes a new file under another name and gives it its name when it is durable: an empty or half-made file is then
/// always a damaged one, never one that is still to be filled.
pub fn create(path: &Path, initialize: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), OpenError> {
    if beside(path, "-wal").exists() {
        return Err(OpenError::Damaged { path: path.to_owned(), damage: Damage::Gone });
    }
    let new = beside(path, ".new");
    let failed = |source| OpenError::Create { path: path.to_owned(), source };
    for left in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(&new, left)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    // What is stored may be secret. SQLite gives the files beside the database the database's own permissions.
    drop(OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new).map_err(failed)?);
    let database =
        |source| OpenError::Database { step: "making a new database instead", path: path.to_owned(), source };
    let connection = Connection::open(&new).map_err(database)?;
    initialize(&connection).map_err(database)?;
    // Closing moves everything out of the log and removes it.
    connection.close().map_err(|(_, source)| database(source))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Refuses what SQLite would take for something else: an empty file for a new one, a damaged log for a short one.
pub fn check(path: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Create { path: path.to_owned(), source };
    let damaged = |damage| Err(OpenError::Damaged { path: path.to_owned(), damage });
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.len() == 0 {
        return damaged(Damage::Empty);
    }
    let mut head = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // <https://sqlite.org/fileformat2.html#the_database_header>: bytes 18 and 19 are 2 for a file with a log.
    if read.is_err() || !head.starts_with(b"SQLite format 3\0") || head[18..] != [2, 2] {
        return damaged(Damage::Head);
    }
    if metadata.permissions().mode() & 0o777 != 0o600 {
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    }
    let log_path = beside(path, "-wal");
    let log = match fs::read(&log_path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if let Err(damage) = log::check(&log) {
        return damaged(Damage::Log(damage));
    }
    if log.is_empty() {
        return Ok(());
    }
    // After a failed sync the kernel may hold pages as clean that never reached the disk. What is read here, and what
    // is acknowledged behind it from now on, has to be on the disk: write the same bytes again.
    let mut file = OpenOptions::new().write(true).open(&log_path).map_err(failed)?;
    file.write_all(&log).and_then(|()| file.sync_data()).map_err(failed)
}

/// Lets one process have the store, and says which.
pub fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = beside(path, ".lock");
    let failed = |source| OpenError::Lock { path: lock_path.clone(), source };
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock_path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            return Err(OpenError::Locked { path: path.to_owned(), holder: holder.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let program = std::env::current_exe().ok();
    let program = program.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    file.set_len(0).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    writeln!(file, "process {} ({program})", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// What the file system itself says about why it can't be written.
pub fn obstacle(path: &Path) -> Obstacle {
    // Less than a few pages is none: SQLite writes whole ones, several at a time.
    const FEW: u64 = 16;
    match rustix::fs::statvfs(path.parent().unwrap_or(path)) {
        Ok(found) if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => Obstacle::ReadOnly,
        Ok(found) if found.f_bavail < FEW => Obstacle::Full,
        _ => Obstacle::Failing,
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
