//! Volumes on disk: `<pod>/volumes/<name>`. Files are reached through a `..data` link, so that a later version can be
//! swapped in at once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::files::{File, VolumePlan, VolumeSource};

/// A failed step on a volume.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : cannot {step} {path}: {source}")]
    Io { volume: String, step: &'static str, path: PathBuf, source: io::Error },
    #[error("MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not a {kind}")]
    HostPath { volume: String, path: PathBuf, kind: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : hostPath type {kind:?} is not supported by this node")]
    HostPathKind { volume: String, kind: String },
    #[error("subPath {0:?} leads out of its volume")]
    SubPath(PathBuf),
    #[error("cannot prepare subPath {path:?}: {source}")]
    Part { path: PathBuf, source: io::Error },
}

/// Puts the volumes under `root`; gives each one's path. What is there stays.
pub fn write(
    root: &Path,
    plans: &[VolumePlan],
    fs_group: Option<u32>,
) -> Result<BTreeMap<String, PathBuf>, WriteError> {
    let mut paths = BTreeMap::new();
    for plan in plans {
        let path = root.join(&plan.name);
        let failed = |step, path: &Path| {
            let (volume, path) = (plan.name.clone(), path.to_owned());
            move |source| WriteError::Io { volume, step, path, source }
        };
        let path = match &plan.source {
            VolumeSource::Host { path, kind } => {
                host_path(&plan.name, path, kind)?;
                path.clone()
            }
            VolumeSource::Empty => {
                make_dir(&path, 0o777).map_err(failed("make", &path))?;
                give(&path, fs_group).map_err(failed("set the group of", &path))?;
                path
            }
            VolumeSource::Files(files) => {
                make_dir(&path, 0o755).map_err(failed("make", &path))?;
                write_files(&path, files, fs_group).map_err(failed("write the files of", &path))?;
                path
            }
        };
        paths.insert(plan.name.clone(), path);
    }
    Ok(paths)
}

/// Removes what `write` made.
pub fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes a `subPath` of a volume a directory, if nothing is there yet. A link on the way is refused: it could lead
/// anywhere on the node.
pub fn ensure_part(root: &Path, inside: &Path) -> Result<(), WriteError> {
    let mut path = root.to_owned();
    for part in inside.components() {
        let Component::Normal(name) = part else { continue };
        path.push(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                // Our own files are links to `..data`, which nobody but the agent writes.
                let target = path.canonicalize().map_err(|source| WriteError::Part { path: path.clone(), source })?;
                let root = root.canonicalize().map_err(|source| WriteError::Part { path: root.to_owned(), source })?;
                if !root.join("..data").exists() || !target.starts_with(&root) {
                    return Err(WriteError::SubPath(inside.to_owned()));
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_dir(&path, 0o777).map_err(|source| WriteError::Part { path: path.clone(), source })?;
            }
            Err(source) => return Err(WriteError::Part { path, source }),
        }
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// `fsGroup`: the group owns it, may write, and new files inherit it.
fn give(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    chown(path, None, Some(group))?;
    let metadata = fs::metadata(path)?;
    let extra = if metadata.is_dir() { 0o2070 } else { 0o040 };
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.permissions().mode() & 0o7777 | extra))
}

fn write_files(root: &Path, files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> io::Result<()> {
    const VERSION: &str = "..version-1";
    let link = root.join("..data");
    if link.is_symlink() {
        return Ok(());
    }
    let version = root.join(VERSION);
    remove(&version)?;
    make_dir(&version, 0o755)?;
    for (path, file) in files {
        let target = version.join(path);
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        fs::write(&target, &file.bytes)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
        give(&target, group)?;
    }
    let tops: std::collections::BTreeSet<_> = files.keys().filter_map(|path| path.components().next()).collect();
    for top in tops {
        let visible = root.join(top.as_os_str());
        if !visible.is_symlink() {
            symlink(Path::new("..data").join(top.as_os_str()), visible)?;
        }
    }
    symlink(VERSION, link)
}

fn host_path(volume: &str, path: &Path, kind: &str) -> Result<(), WriteError> {
    let failed = |step| move |source| WriteError::Io { volume: volume.to_owned(), step, path: path.to_owned(), source };
    let found = fs::metadata(path).ok();
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|found| test(&found.file_type()));
    let good = match kind {
        "" => true,
        "DirectoryOrCreate" if found.is_none() => {
            make_dir(path, 0o755).map_err(failed("make"))?;
            true
        }
        "FileOrCreate" if found.is_none() => {
            fs::File::create_new(path).map_err(failed("make"))?;
            true
        }
        "Directory" | "DirectoryOrCreate" => is(fs::FileType::is_dir),
        "File" | "FileOrCreate" => is(fs::FileType::is_file),
        "Socket" => is(|kind| kind.is_socket()),
        "CharDevice" => is(|kind| kind.is_char_device()),
        "BlockDevice" => is(|kind| kind.is_block_device()),
        other => return Err(WriteError::HostPathKind { volume: volume.to_owned(), kind: other.to_owned() }),
    };
    if good {
        Ok(())
    } else {
        let (volume, path, kind) = (volume.to_owned(), path.to_owned(), kind.to_owned());
        Err(WriteError::HostPath { volume, path, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn files_are_reached_through_a_link_and_stay_on_a_second_write() {
        let dir = TempDir::new();
        let file = |text: &str| File { bytes: text.into(), mode: 0o440 };
        let files = [(PathBuf::from("a"), file("1")), (PathBuf::from("d/b"), file("2"))].into();
        let plans = [
            VolumePlan { name: "conf".into(), source: VolumeSource::Files(files) },
            VolumePlan { name: "scratch".into(), source: VolumeSource::Empty },
        ];
        let paths = write(dir.path(), &plans, None).unwrap();
        assert_eq!(fs::read_to_string(paths["conf"].join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(paths["conf"].join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(paths["conf"].join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(paths["conf"].join("a")).unwrap().permissions().mode() & 0o777, 0o440);
        fs::write(paths["scratch"].join("kept"), "x").unwrap();
        write(dir.path(), &plans, None).unwrap();
        assert_eq!(fs::read_to_string(paths["scratch"].join("kept")).unwrap(), "x");
        ensure_part(&paths["conf"], Path::new("a")).unwrap();
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
    }

    #[test]
    fn a_sub_path_through_a_link_is_refused() {
        let dir = TempDir::new();
        ensure_part(dir.path(), Path::new("x/y")).unwrap();
        assert!(dir.path().join("x/y").is_dir());
        symlink("/etc", dir.path().join("out")).unwrap();
        assert!(matches!(ensure_part(dir.path(), Path::new("out/passwd")), Err(WriteError::SubPath(_))));
    }

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = TempDir::new();
        let path = dir.path().join("made");
        assert!(host_path("v", &path, "Directory").is_err());
        host_path("v", &path, "DirectoryOrCreate").unwrap();
        host_path("v", &path, "Directory").unwrap();
        assert!(host_path("v", &path, "File").is_err());
        assert!(matches!(host_path("v", &path, "Odd"), Err(WriteError::HostPathKind { .. })));
    }
}
