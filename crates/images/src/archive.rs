//! Finding the images in an unpacked archive: an OCI layout (`index.json`) or what `docker save` writes
//! (`manifest.json`).
//!
//! Not responsible for layers' content.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::de::DeserializeOwned;
use tar::EntryType;

use crate::compression::decompress;
use crate::digest::{Digest, Summing};
use crate::entries;
use crate::error::{ImageError, io_at, path_at};
use crate::manifest::{Descriptor, DockerManifest, IndexOrManifest, NAME_ANNOTATIONS, Platform};

/// Indexes may refer to indexes; a few levels are more than anybody makes.
const DEEPEST_INDEX: u32 = 4;
/// Documents are small; anything larger is not one.
const LONGEST_DOCUMENT: u64 = 16 << 20;

/// An archive's files in a directory of ours.
pub(crate) struct ArchiveFiles {
    directory: PathBuf,
    root: std::os::fd::OwnedFd,
}

/// An image of an archive, with the places of its parts.
pub(crate) struct FoundImage {
    /// As written in the archive.
    pub(crate) names: Vec<String>,
    pub(crate) config: String,
    /// Lowest first.
    pub(crate) layers: Vec<LayerFile>,
}

pub(crate) struct LayerFile {
    pub(crate) file: String,
    /// Of the file as it is; docker archives don't say.
    pub(crate) digest: Option<Digest>,
}

impl ArchiveFiles {
    /// Unpacks the outer archive into `directory`: files and links, nothing else.
    pub(crate) fn unpack(reader: impl Read, directory: &Path) -> Result<Self, ImageError> {
        let unreadable = |error: io::Error| io_at("read the archive")(error);
        let mut stream = decompress(reader).map_err(unreadable)?;
        let mut first = Vec::new();
        stream.by_ref().take(entries::BLOCK as u64).read_to_end(&mut first).map_err(unreadable)?;
        if !entries::begins(&first) {
            return Err(ImageError::NotAnArchive);
        }
        entries::for_each(first.as_slice().chain(stream), unreadable, |entry| {
            entry.set_preserve_permissions(false);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let wanted = matches!(
                entry.header().entry_type(),
                EntryType::Regular
                    | EntryType::Continuous
                    | EntryType::Symlink
                    | EntryType::Link
                    | EntryType::Directory
            );
            // What it refuses to unpack leads out of the directory.
            if wanted && !entry.unpack_in(directory).map_err(io_at("unpack the archive"))? {
                return Err(ImageError::ArchiveEntry { entry: name, problem: "leads out of it (\"..\")" });
            }
            Ok(())
        })?;
        Self::of_directory(directory)
    }

    /// The files of an archive that somebody has unpacked, or never packed.
    pub(crate) fn of_directory(directory: &Path) -> Result<Self, ImageError> {
        let root = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(path_at("open", directory))?;
        Ok(Self { directory: directory.to_owned(), root })
    }

    /// Opens a file of the archive; links can't lead out of it.
    pub(crate) fn open(&self, file: &str) -> Result<File, ImageError> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.root, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), inside) {
            Ok(fd) => Ok(File::from(fd)),
            Err(rustix::io::Errno::NOENT) => Err(ImageError::Missing { file: file.to_owned() }),
            Err(errno) => Err(path_at("open", self.directory.join(file))(errno)),
        }
    }

    pub(crate) fn read(&self, file: &str) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open(file)?.take(LONGEST_DOCUMENT).read_to_end(&mut bytes).map_err(path_at("read", file))?;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.read(file)?).map_err(|source| ImageError::Json { file: file.to_owned(), source })
    }

    /// Like `json`, for a blob, whose content must have the digest it is named by.
    fn blob_json<T: DeserializeOwned>(&self, digest: &Digest) -> Result<T, ImageError> {
        let file = blob(digest);
        let bytes = self.read(&file)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ImageError::Mismatch { what: file, expected: digest.clone(), actual });
        }
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Json { file, source })
    }

    /// Checks a file against the digest it should have.
    pub(crate) fn verify(&self, file: &str, expected: &Digest) -> Result<(), ImageError> {
        let mut summing = Summing::new(self.open(file)?);
        io::copy(&mut summing, &mut io::sink()).map_err(path_at("read", file))?;
        let (actual, _) = summing.finish();
        if actual == *expected {
            return Ok(());
        }
        Err(ImageError::Mismatch { what: file.to_owned(), expected: expected.clone(), actual })
    }

    /// The images in it. What both formats describe at once (docker 25 and later) is read as an OCI layout.
    pub(crate) fn images(&self) -> Result<Vec<FoundImage>, ImageError> {
        if self.has("index.json") {
            let index: IndexOrManifest = self.json("index.json")?;
            // Several platforms side by side, without an index of their own, are one image each.
            let ours = |one: &&Descriptor| one.platform.as_ref().is_none_or(Platform::is_ours);
            let chosen: Vec<&Descriptor> = index.manifests.iter().filter(ours).collect();
            if chosen.is_empty() && !index.manifests.is_empty() {
                return Err(no_platform(&index));
            }
            let found = chosen.into_iter().map(|one| self.oci_image(one)).collect::<Result<Vec<_>, _>>()?;
            // Docker writes a name's tag alone into the annotation, and the whole name into manifest.json.
            return if self.has("manifest.json") { self.with_docker_names(found) } else { Ok(found) };
        }
        if self.has("manifest.json") {
            let manifests: Vec<DockerManifest> = self.json("manifest.json")?;
            return Ok(manifests.into_iter().map(docker_image).collect());
        }
        Err(if self.has("repositories") { ImageError::OldArchive } else { ImageError::UnknownArchive })
    }

    fn has(&self, file: &str) -> bool {
        self.directory.join(file).exists()
    }

    fn oci_image(&self, descriptor: &Descriptor) -> Result<FoundImage, ImageError> {
        let named = NAME_ANNOTATIONS.iter().find_map(|key| descriptor.annotations.get(*key));
        let manifest = self.manifest(&descriptor.digest, DEEPEST_INDEX)?;
        let layer = |layer: &Descriptor| LayerFile { file: blob(&layer.digest), digest: Some(layer.digest.clone()) };
        let not_an_image =
            |kind| ImageError::NotAnImage { what: blob(&descriptor.digest), kind: format!(" (it is {kind})") };
        if let Some(kind) = manifest.foreign_kind() {
            return Err(not_an_image(kind));
        }
        let config = manifest.config.as_ref().ok_or_else(|| not_an_image("one without a configuration".to_owned()))?;
        Ok(FoundImage {
            names: named.cloned().into_iter().collect(),
            config: blob(&config.digest),
            layers: manifest.layers.iter().map(layer).collect(),
        })
    }

    /// The manifest for this machine, through indexes if need be.
    fn manifest(&self, digest: &Digest, depth: u32) -> Result<IndexOrManifest, ImageError> {
        let document: IndexOrManifest = self.blob_json(digest)?;
        if document.config.is_some() || depth == 0 {
            return Ok(document);
        }
        let chosen = document.for_this_machine().ok_or_else(|| no_platform(&document))?;
        self.manifest(&chosen.digest, depth - 1)
    }

    fn with_docker_names(&self, mut found: Vec<FoundImage>) -> Result<Vec<FoundImage>, ImageError> {
        let manifests: Vec<DockerManifest> = self.json("manifest.json")?;
        for image in &mut found {
            if let Some(manifest) = manifests.iter().find(|manifest| manifest.config == image.config) {
                image.names.clone_from(&manifest.repo_tags);
            }
        }
        Ok(found)
    }
}

fn no_platform(index: &IndexOrManifest) -> ImageError {
    ImageError::NoPlatform { wanted: Platform::ours().to_string(), others: index.platforms() }
}

fn docker_image(manifest: DockerManifest) -> FoundImage {
    let layer = |file| LayerFile { file, digest: None };
    FoundImage {
        names: manifest.repo_tags,
        config: manifest.config,
        layers: manifest.layers.into_iter().map(layer).collect(),
    }
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
