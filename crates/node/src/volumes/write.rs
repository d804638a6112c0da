//! Volumes on disk: `<pod>/volumes/<name>`. Not responsible for the files in those that have some (`versions`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::files::{VolumePlan, VolumeSource};
use super::memory;
use super::versions::write_files;

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
    filetree::remove(&places.disk)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// `fsGroup`: the group owns the directory, may write, and new files inherit it.
fn give(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    chown(path, None, Some(group))?;
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 | 0o2070))
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
    use super::super::files::File;
    use super::*;
    use crate::testing::TempDir;
    use std::collections::BTreeSet;

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
    fn a_volume_of_any_depth_goes() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        // In memory, where depth is quick.
        let root = Path::new("/dev/shm").join(format!("portolan-node-deep-{}", std::process::id()));
        let places = Places { disk: root.join("disk"), memory: root.join("memory") };
        let plans = [VolumePlan { name: "scratch".into(), source: VolumeSource::Empty }];
        let paths = write(&places, &plans, None).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = openat(CWD, &paths["scratch"], flags, Mode::empty()).unwrap();
        for _ in 0..3_000 {
            mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            here = openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        let removal = std::thread::Builder::new().stack_size(128 << 10).spawn(move || remove(&places));
        removal.unwrap().join().unwrap().unwrap();
        assert!(!root.join("disk").exists());
        filetree::remove(&root).unwrap();
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
