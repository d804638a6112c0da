//! Volumes on disk: `<pod>/volumes/<name>`. Files are reached through a `..data` link, so that a later version is swapped
//! in at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::files::{File, VolumePlan, VolumeSource};
use super::memory;

/// A failed step on a volume.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : cannot {step} {path}: {source}")]
    Io { volume: String, step: &'static str, path: PathBuf, source: io::Error },
    #[error("MountVolume.SetUp failed for volume {volume:?} : hostPath type check failed: {path} is not a {kind}")]
    HostPath { volume: String, path: PathBuf, kind: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : hostPath type {kind:?} is not supported by this node")]
    HostPathKind { volume: String, kind: String },
}

/// Where a pod's volumes are, by name below these.
#[derive(Clone, Debug)]
pub struct Places {
    pub disk: PathBuf,
    /// Directly below the mount of all pods' volumes in memory.
    pub memory: PathBuf,
}

/// What `fsGroup` adds to a file's mode.
const GROUP_MAY_READ: u32 = 0o040;

/// Makes the volumes; gives each one's path. What is there stays.
pub fn write(
    places: &Places,
    plans: &[VolumePlan],
    fs_group: Option<u32>,
) -> Result<BTreeMap<String, PathBuf>, WriteError> {
    let mut paths = BTreeMap::new();
    for plan in plans {
        let path = places.disk.join(&plan.name);
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
            VolumeSource::Memory { size } => {
                let path = places.memory.join(&plan.name);
                let base = places.memory.parent().unwrap_or(&places.memory);
                memory::mount_at(base, &path, *size).map_err(failed("mount", &path))?;
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

/// Brings the files of volumes up to date; other kinds of volumes are their containers' business.
pub fn refresh(places: &Places, plans: &[VolumePlan], fs_group: Option<u32>) -> Result<(), WriteError> {
    for plan in plans {
        let VolumeSource::Files(files) = &plan.source else { continue };
        let path = places.disk.join(&plan.name);
        write_files(&path, files, fs_group).map_err(|source| WriteError::Io {
            volume: plan.name.clone(),
            step: "write the files of",
            path,
            source,
        })?;
    }
    Ok(())
}

/// Removes what `write` made.
pub fn remove(places: &Places) -> io::Result<()> {
    memory::remove(&places.memory)?;
    match fs::remove_dir_all(&places.disk) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
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
    let extra = if metadata.is_dir() { 0o2070 } else { GROUP_MAY_READ };
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.permissions().mode() & 0o7777 | extra))
}

/// As kubelet's atomic writer: each version in a directory of its own, to which the link `..data` leads, to which the
/// visible names lead. Readers see one version whole or the next. Nothing is written when nothing has changed.
fn write_files(root: &Path, files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> io::Result<()> {
    let link = root.join("..data");
    let old = fs::read_link(&link).ok();
    if old.is_some() && held(&link)? == as_given(files, group) {
        return visible_names(root, files);
    }
    let now = jiff::Timestamp::now();
    let version = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let directory = root.join(&version);
    make_dir(&directory, 0o755)?;
    for (path, file) in files {
        let target = directory.join(path);
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        fs::write(&target, &file.bytes)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
        give(&target, group)?;
    }
    let next = root.join("..data_tmp");
    // Left by an agent that was killed.
    let _ = fs::remove_file(&next);
    symlink(&version, &next)?;
    fs::rename(&next, &link)?;
    visible_names(root, files)?;
    remove_versions_but(root, &version)
}

/// The files with the modes they have on disk.
fn as_given(files: &BTreeMap<PathBuf, File>, group: Option<u32>) -> BTreeMap<PathBuf, File> {
    let extra = if group.is_some() { GROUP_MAY_READ } else { 0 };
    files.iter().map(|(path, file)| (path.clone(), File { mode: file.mode | extra, ..file.clone() })).collect()
}

/// What the present version holds.
fn held(version: &Path) -> io::Result<BTreeMap<PathBuf, File>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(inside) = pending.pop() {
        for entry in fs::read_dir(version.join(&inside))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                pending.push(path);
                continue;
            }
            let mode = metadata.permissions().mode() & 0o777;
            found.insert(path, File { bytes: fs::read(entry.path())?, mode });
        }
    }
    Ok(found)
}

/// A link per name at the top, and none for names that are gone.
fn visible_names(root: &Path, files: &BTreeMap<PathBuf, File>) -> io::Result<()> {
    let tops: BTreeSet<_> = files.keys().filter_map(|path| path.components().next()).map(|c| c.as_os_str()).collect();
    for top in &tops {
        let visible = root.join(top);
        if !visible.is_symlink() {
            symlink(Path::new("..data").join(top), visible)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") && !tops.contains(name.as_os_str()) {
            fs::remove_file(root.join(name))?;
        }
    }
    Ok(())
}

fn remove_versions_but(root: &Path, version: &str) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() && name.to_string_lossy().starts_with("..") && name != *version {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
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

    fn file(text: &str) -> File {
        File { bytes: text.into(), mode: 0o440 }
    }

    fn files(files: &[(&str, &str)]) -> VolumePlan {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect();
        VolumePlan { name: "conf".into(), source: VolumeSource::Files(files) }
    }

    fn places(dir: &TempDir) -> Places {
        Places { disk: dir.path().join("disk"), memory: dir.path().join("memory/uid") }
    }

    #[test]
    fn files_are_reached_through_a_link_and_stay_on_a_second_write() {
        let dir = TempDir::new();
        let places = places(&dir);
        let plans =
            [files(&[("a", "1"), ("d/b", "2")]), VolumePlan { name: "scratch".into(), source: VolumeSource::Empty }];
        let paths = write(&places, &plans, None).unwrap();
        assert_eq!(fs::read_to_string(paths["conf"].join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(paths["conf"].join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(paths["conf"].join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(paths["conf"].join("a")).unwrap().permissions().mode() & 0o777, 0o440);
        fs::write(paths["scratch"].join("kept"), "x").unwrap();
        let version = fs::read_link(paths["conf"].join("..data")).unwrap();
        write(&places, &plans, None).unwrap();
        assert_eq!(fs::read_link(paths["conf"].join("..data")).unwrap(), version, "nothing changed");
        assert_eq!(fs::read_to_string(paths["scratch"].join("kept")).unwrap(), "x");
        super::super::ensure_part(&paths["conf"], Path::new("a")).unwrap();
        remove(&places).unwrap();
        remove(&places).unwrap();
    }

    #[test]
    fn a_new_version_is_swapped_in_whole_and_the_old_one_goes() {
        let dir = TempDir::new();
        let places = places(&dir);
        let paths = write(&places, &[files(&[("a", "1"), ("old", "x"), ("d/b", "2")])], Some(0)).unwrap();
        let conf = &paths["conf"];
        // What a reader holds open stays what it was.
        let opened = fs::canonicalize(conf.join("a")).unwrap();
        refresh(&places, &[files(&[("a", "2"), ("new", "y"), ("d/b", "2")])], Some(0)).unwrap();
        assert_eq!(fs::read_to_string(conf.join("a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(conf.join("new")).unwrap(), "y");
        assert!(!opened.exists() && !conf.join("old").is_symlink());
        let mut names: Vec<_> = fs::read_dir(conf).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let version = fs::read_link(conf.join("..data")).unwrap();
        assert!(version.to_string_lossy().starts_with("..20"), "{version:?}");
        let expected: BTreeSet<_> =
            [version.as_os_str(), "..data".as_ref(), "a".as_ref(), "d".as_ref(), "new".as_ref()].into();
        assert_eq!(names.iter().map(|name| name.as_os_str()).collect::<BTreeSet<_>>(), expected);
        refresh(&places, &[files(&[("a", "2"), ("new", "y"), ("d/b", "2")])], Some(0)).unwrap();
        assert_eq!(fs::read_link(conf.join("..data")).unwrap(), version);
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
