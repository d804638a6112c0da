//! The store: `DIRECTORY/images/{refs.json, lock, blobs/sha256/*, layers/<diff id>/, downloads/}`.
//!
//! A change holds the lock (flock) while it rewrites `refs.json`; layers and blobs appear whole, by renaming. Whoever
//! runs a container holds a shared lock on its layers' directories, and a layer is deleted only by someone who gets the
//! exclusive one; what is in use when its image is removed goes with a later import or removal. Not responsible for
//! overlay mounts.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::builtin;
use crate::digest::Digest;
use crate::error::{ImageError, io_at, path_at};
use crate::manifest::{ImageConfig, ImageDocument};
use crate::record::Records;
use crate::reference::Reference;

mod arrival;
mod import;

pub(crate) use arrival::{Arrival, LayerArrival};

/// Told apart by process and number; those of dead processes are swept.
static SCRATCH_NUMBER: AtomicU64 = AtomicU64::new(0);

/// How long an interrupted download waits to be continued.
const DOWNLOADS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Images below one data directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    directory: PathBuf,
    executable: PathBuf,
    /// Waits until a file system has on its disk what was written; syncfs(2).
    sync: fn(&File) -> io::Result<()>,
}

/// An image that is on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// Normalised names; a removed name's image may still be known by others.
    pub names: Vec<String>,
    /// What it was pulled as: `host/path@sha256:…`, the digest of a manifest or index.
    pub digests: Vec<String>,
    /// Its layers' sizes as uncompressed archives.
    pub size: u64,
    pub config: ImageConfig,
    /// Directories, lowest first.
    pub layers: Vec<PathBuf>,
    /// Files of this machine to be seen in its containers, read-only.
    pub binds: Vec<FileBind>,
    /// Part of the program: can't be removed.
    pub built_in: bool,
}

impl Image {
    /// The repository and digest that a registry has it under: those of the name it is asked for by, if it was pulled from
    /// there.
    pub fn pulled_as(&self, name: &str) -> Option<&str> {
        let asked = name.parse::<Reference>().ok().map(|reference| format!("{}@", reference.repository()));
        let same = asked.and_then(|asked| self.digests.iter().find(|digest| digest.starts_with(&asked)));
        same.or(self.digests.first()).map(String::as_str)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBind {
    pub source: PathBuf,
    pub target: PathBuf,
}

impl ImageStore {
    /// Opens the store below `data_directory`, making it if it isn't there. `executable` is what the built-in image runs;
    /// this program when absent.
    pub fn open(data_directory: &Path, executable: Option<PathBuf>) -> Result<Self, ImageError> {
        let directory = data_directory.join("images");
        for part in ["blobs/sha256", "layers", "downloads"] {
            fs::create_dir_all(directory.join(part)).map_err(path_at("make", directory.join(part)))?;
        }
        let executable = match executable {
            Some(executable) => executable,
            None => builtin::own_executable().map_err(io_at("find this program's file"))?,
        };
        let store = Self { directory, executable, sync: |file| Ok(rustix::fs::syncfs(file)?) };
        let _lock = store.lock()?;
        store.sweep_scratch();
        store.sweep_downloads();
        for diff_id in &builtin::document().rootfs.diff_ids {
            store.add_built_in(diff_id)?;
        }
        Ok(store)
    }

    /// The image of this name, or of this id (`sha256:…`).
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let records = self.records()?;
        let id = match name.parse::<Digest>() {
            Ok(id) => Some(id),
            Err(_) => self.id_of(&name.parse()?, &records),
        };
        match id {
            Some(id) if id == builtin_id() => Ok(Some(self.built_in(&records))),
            Some(id) if records.images.contains_key(&id) => self.image(&id, &records).map(Some),
            _ => Ok(None),
        }
    }

    /// Every image, the built-in one first. One that is damaged is logged and left out.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let records = self.records()?;
        let mut images = vec![self.built_in(&records)];
        for id in records.images.keys() {
            match self.image(id, &records) {
                Ok(image) => images.push(image),
                Err(error) => tracing::warn!(image = %id, %error, "an image can't be listed"),
            }
        }
        Ok(images)
    }

    /// Forgets a name (or an id with all its names), and with its last name the image. False when there's no such image.
    pub fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let _lock = self.lock()?;
        let mut records = self.records()?;
        let id = match name.parse::<Digest>() {
            Ok(id) => {
                records.forget_names_of(&id);
                Some(id)
            }
            Err(_) => {
                let reference: Reference = name.parse()?;
                if reference.is_reserved() {
                    return Err(ImageError::Reserved(reference.to_string()));
                }
                records.forget_name(&reference)
            }
        };
        let Some(id) = id else { return Ok(false) };
        if id == builtin_id() {
            return Err(ImageError::Reserved(id.to_string()));
        }
        let known = records.drop_if_nameless(&id) || records.images.contains_key(&id);
        self.finish(records)?;
        Ok(known)
    }

    fn image(&self, id: &Digest, records: &Records) -> Result<Image, ImageError> {
        let path = self.blob_path(id);
        let bytes = fs::read(&path).map_err(path_at("read", path.clone()))?;
        let document: ImageDocument = serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::Json { file: path.display().to_string(), source })?;
        let record = records.images.get(id);
        Ok(Image {
            id: id.clone(),
            names: records.names_of(id),
            digests: records.digests_of(id),
            size: record.map_or(0, |record| record.size),
            config: document.config,
            layers: document.rootfs.diff_ids.iter().map(|diff_id| self.layer_path(diff_id)).collect(),
            binds: Vec::new(),
            built_in: false,
        })
    }

    fn built_in(&self, records: &Records) -> Image {
        let document = builtin::document();
        let mut names = vec![builtin::TESTSERVER.to_owned()];
        names.extend(records.names_of(&builtin_id()));
        Image {
            id: builtin_id(),
            names,
            digests: Vec::new(),
            size: fs::metadata(&self.executable).map_or(0, |metadata| metadata.len()),
            config: document.config,
            layers: document.rootfs.diff_ids.iter().map(|diff_id| self.layer_path(diff_id)).collect(),
            binds: vec![FileBind { source: self.executable.clone(), target: PathBuf::from(builtin::PROGRAM) }],
            built_in: true,
        }
    }

    fn id_of(&self, reference: &Reference, records: &Records) -> Option<Digest> {
        if reference.to_string() == builtin::TESTSERVER {
            return Some(builtin_id());
        }
        records.id_of(reference)
    }

    /// Whatever was written into the store is on the disk when this returns: once for all of an image's files, of which there
    /// may be tens of thousands.
    fn sync(&self) -> Result<(), ImageError> {
        let directory = File::open(&self.directory).map_err(path_at("open", &self.directory))?;
        (self.sync)(&directory).map_err(path_at("sync", &self.directory))
    }

    /// The same for the names that layers and blobs were given.
    fn sync_names(&self) -> Result<(), ImageError> {
        for part in ["layers", "blobs/sha256"] {
            let path = self.directory.join(part);
            File::open(&path).and_then(|directory| directory.sync_all()).map_err(path_at("sync", path))?;
        }
        Ok(())
    }

    /// Ends a change: writes it down, then deletes what nobody needs any more. Under the lock.
    fn finish(&self, mut records: Records) -> Result<(), ImageError> {
        records.sizes.retain(|diff_id, _| self.layer_path(diff_id).exists());
        records.save(&self.records_path()).map_err(path_at("write", self.records_path()))?;
        self.sweep(&records)
    }

    /// Deletes blobs and layers that no image mentions and nobody uses. Under the lock.
    fn sweep(&self, records: &Records) -> Result<(), ImageError> {
        let kept: HashSet<String> = builtin::document().rootfs.diff_ids.iter().map(|id| id.hex().to_owned()).collect();
        for (name, path) in entries(&self.directory.join("layers"))? {
            if !records.uses_layer(&name) && !kept.contains(&name) && unused(&path) {
                self.delete(&path)?;
            }
        }
        for (name, path) in entries(&self.directory.join("blobs/sha256"))? {
            if !records.images.keys().any(|id| id.hex() == name) {
                fs::remove_file(&path).map_err(path_at("remove", path.clone()))?;
            }
        }
        Ok(())
    }

    /// Out of sight first: a half-deleted layer must not be taken for one.
    fn delete(&self, layer: &Path) -> Result<(), ImageError> {
        let scratch = self.scratch()?;
        fs::rename(layer, scratch.path.join("layer")).map_err(path_at("remove", layer))
    }

    /// A directory of this process's own, gone with the value.
    fn scratch(&self) -> Result<Scratch, ImageError> {
        loop {
            let number = SCRATCH_NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(format!(".scratch-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                // Process ids are a namespace's own.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(path_at("make", path.clone()))?,
            }
            // Until it is locked, another process may take it for one that a dead process left.
            match lock_directory(&path, FlockOperation::LockShared) {
                Ok(held) if path.exists() => return Ok(Scratch { path, _held: held }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(path_at("lock", path)(error)),
            }
        }
    }

    /// Deletes downloads that nobody continued for a day.
    fn sweep_downloads(&self) {
        for (_, path) in entries(&self.downloads()).unwrap_or_default() {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > DOWNLOADS_KEPT));
            let idle =
                File::open(&path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
            if old && idle {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Deletes what killed imports left.
    fn sweep_scratch(&self) {
        for (name, path) in entries(&self.directory).unwrap_or_default() {
            if !name.starts_with(".scratch-") {
                continue;
            }
            if let Ok(_held) = lock_directory(&path, FlockOperation::NonBlockingLockExclusive) {
                let _ = filetree::remove(&path);
            }
        }
    }

    fn lock(&self) -> Result<OwnedFd, ImageError> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(path_at("open", path.clone()))?;
        flock(&file, FlockOperation::LockExclusive).map_err(path_at("lock", path))?;
        Ok(file.into())
    }

    fn records(&self) -> Result<Records, ImageError> {
        Records::load(&self.records_path()).map_err(path_at("read", self.records_path()))
    }

    fn records_path(&self) -> PathBuf {
        self.directory.join("refs.json")
    }

    /// Where parts of images are while they come in.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.directory.join("downloads")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join("layers").join(diff_id.hex())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}

struct Scratch {
    path: PathBuf,
    _held: OwnedFd,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A layer was moved away from under its name; the rest goes.
        let _ = filetree::remove(&self.path);
    }
}

fn builtin_id() -> Digest {
    let bytes = serde_json::to_vec(&builtin::document()).expect("a document of strings is JSON");
    Digest::of(&bytes)
}

fn lock_directory(path: &Path, how: FlockOperation) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    flock(&fd, how)?;
    Ok(fd)
}

/// Whether nobody holds the directory.
fn unused(path: &Path) -> bool {
    lock_directory(path, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let listed = fs::read_dir(directory).map_err(path_at("list", directory))?;
    Ok(listed.flatten().filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect())
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod archive_tests;
