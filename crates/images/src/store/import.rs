//! Images from archives and directories on this machine.
//!
//! Not responsible for reading either (`archive`).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Arrival, Image, ImageStore};
use crate::archive::{ArchiveFiles, FoundImage, LayerFile};
use crate::digest::Digest;
use crate::error::{ImageError, path_at};
use crate::manifest::ImageDocument;
use crate::reference::Reference;

/// A layer that was there may be swept while the others come; hardly twice.
const ATTEMPTS: usize = 4;

impl ImageStore {
    /// Imports an archive (plain, gzip or zstd) and gives the images that were in it.
    pub fn import(&self, archive: impl Read) -> Result<Vec<Image>, ImageError> {
        self.import_as(archive, None)
    }

    /// The same; its one image gets this name instead of those the archive gives it.
    pub fn import_as(&self, archive: impl Read, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        let scratch = self.scratch()?;
        self.import_files(&ArchiveFiles::unpack(archive, &scratch.path)?, name)
    }

    /// Imports the archive in this file, or what lies in this directory as it would in an archive.
    pub fn import_path(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        if path.is_dir() {
            return self.import_files(&ArchiveFiles::of_directory(path)?, name);
        }
        self.import_as(File::open(path).map_err(path_at("open", path))?, name)
    }

    fn import_files(&self, files: &ArchiveFiles, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        let found = files.images()?;
        let mut named = Vec::new();
        for image in &found {
            let mut names = image.names.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>, _>>()?;
            match name {
                Some(_) if found.len() > 1 => return Err(ImageError::ManyImages(found.len())),
                Some(given) => names = vec![given.clone()],
                None => {}
            }
            if let Some(reserved) = names.iter().find(|name| name.is_reserved()) {
                return Err(ImageError::Reserved(reserved.to_string()));
            }
            named.push(names);
        }
        // Read whole before anything of it appears: an archive comes in with all its images or with none.
        let arrivals = found.iter().zip(&named).map(|(image, names)| self.arrival(files, image, names));
        let arrivals = arrivals.collect::<Result<Vec<_>, _>>()?;
        let mut imported = Vec::new();
        for ((image, names), arrival) in found.iter().zip(&named).zip(arrivals) {
            imported.push(self.commit_or_again(files, image, names, arrival)?);
        }
        let records = self.records()?;
        imported.iter().map(|id| self.image(id, &records)).collect()
    }

    fn commit_or_again(
        &self,
        files: &ArchiveFiles,
        found: &FoundImage,
        names: &[Reference],
        mut arrival: Arrival,
    ) -> Result<Digest, ImageError> {
        for _ in 1..ATTEMPTS {
            match self.commit(arrival) {
                Err(ImageError::LayerGone(_)) => arrival = self.arrival(files, found, names)?,
                other => return other,
            }
        }
        self.commit(arrival)
    }

    fn arrival(&self, files: &ArchiveFiles, found: &FoundImage, names: &[Reference]) -> Result<Arrival, ImageError> {
        let config = files.read(&found.config)?;
        let actual = Digest::of(&config);
        if let Some(expected) =
            found.config.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok())
            && expected != actual
        {
            return Err(ImageError::Mismatch { what: found.config.clone(), expected, actual });
        }
        let document: ImageDocument = serde_json::from_slice(&config)
            .map_err(|source| ImageError::Json { file: found.config.clone(), source })?;
        let diff_ids = document.rootfs.diff_ids;
        if diff_ids.len() != found.layers.len() {
            return Err(ImageError::LayerCount { layers: found.layers.len(), diff_ids: diff_ids.len() });
        }
        let unpack = |(layer, diff_id): (&LayerFile, &Digest)| {
            if let Some(digest) = &layer.digest {
                files.verify(&layer.file, digest)?;
            }
            self.unpack_layer(diff_id, &layer.file, || files.open(&layer.file))
        };
        let layers = found.layers.iter().zip(&diff_ids).map(unpack).collect::<Result<Vec<_>, _>>()?;
        Ok(Arrival { config, layers, names: names.to_vec() })
    }
}
