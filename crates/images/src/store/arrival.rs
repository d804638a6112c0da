//! How an image comes into the store: its layers are unpacked one by one in scratch directories, and only when all of it is
//! there does it appear, under the lock. Whoever dies on the way leaves scratch that the next one sweeps.
//!
//! Not responsible for where the layers come from.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};

use super::{ImageStore, Scratch};
use crate::builtin;
use crate::compression::decompress;
use crate::digest::{Digest, Summing};
use crate::error::{ImageError, io_at, path_at};
use crate::manifest::ImageDocument;
use crate::record::ImageRecord;
use crate::reference::Reference;
use crate::unpack::unpack;

/// An archive that goes on for longer is no layer but an attack on the disk.
const LARGEST_LAYER: u64 = 64 << 30;

/// An image on its way.
pub(crate) struct Arrival {
    /// The configuration's bytes: their digest is the image's id.
    pub(crate) config: Vec<u8>,
    /// Lowest first, one for each diff id of the configuration.
    pub(crate) layers: Vec<LayerArrival>,
    pub(crate) names: Vec<Reference>,
}

/// A layer that is there already, or unpacked and not yet in its place.
pub(crate) struct LayerArrival {
    diff_id: Digest,
    unpacked: Option<(Scratch, u64)>,
}

/// Stops with an error where the limit is.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl ImageStore {
    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).exists()
    }

    /// Unpacks a layer (plain, gzip or zstd), unless it is there. `what` names its file in errors.
    pub(crate) fn unpack_layer<R: Read>(
        &self,
        diff_id: &Digest,
        what: &str,
        open: impl FnOnce() -> Result<R, ImageError>,
    ) -> Result<LayerArrival, ImageError> {
        if self.has_layer(diff_id) {
            return Ok(LayerArrival { diff_id: diff_id.clone(), unpacked: None });
        }
        let scratch = self.scratch()?;
        let stream = decompress(open()?).map_err(path_at("read", what))?;
        let mut summing = Summing::new(Bounded { inner: stream, left: LARGEST_LAYER });
        unpack(&mut summing, &scratch.path, what)?;
        let (actual, size) = summing.finish();
        if actual != *diff_id {
            return Err(ImageError::Mismatch {
                what: format!("the content of {what}"),
                expected: diff_id.clone(),
                actual,
            });
        }
        Ok(LayerArrival { diff_id: diff_id.clone(), unpacked: Some((scratch, size)) })
    }

    /// Makes the image appear, all at once. `LayerGone` when a layer that was there has been swept since: to be tried again.
    pub(crate) fn commit(&self, arrival: Arrival) -> Result<Digest, ImageError> {
        let id = Digest::of(&arrival.config);
        let document: ImageDocument = serde_json::from_slice(&arrival.config)
            .map_err(|source| ImageError::Json { file: "the image's configuration".to_owned(), source })?;
        let (layers, diff_ids) = (arrival.layers.len(), document.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(ImageError::LayerCount { layers, diff_ids });
        }
        // Before any of it has its name: a machine's crash must not leave a layer with holes.
        self.sync()?;
        let _lock = self.lock()?;
        let mut records = self.records()?;
        let mut size = 0_u64;
        for LayerArrival { diff_id, unpacked } in arrival.layers {
            let target = self.layer_path(&diff_id);
            if let Some((scratch, length)) = unpacked {
                records.sizes.insert(diff_id.clone(), length);
                // Another import may have been faster with the same layer.
                if !target.exists() {
                    fs::rename(&scratch.path, &target).map_err(path_at("move a layer to", target))?;
                }
            } else if !target.exists() {
                return Err(ImageError::LayerGone(diff_id));
            }
            size = size.saturating_add(records.sizes.get(&diff_id).copied().unwrap_or(0));
        }
        self.write_blob(&id, &arrival.config)?;
        self.sync_names()?;
        records.images.insert(id.clone(), ImageRecord { layers: document.rootfs.diff_ids, size });
        for name in &arrival.names {
            records.name(name, &id);
        }
        self.finish(records)?;
        Ok(id)
    }

    /// Gives an image that is there these names too. False when it isn't there after all, whole.
    pub(crate) fn add_names(&self, id: &Digest, names: &[Reference]) -> Result<bool, ImageError> {
        let _lock = self.lock()?;
        let mut records = self.records()?;
        let whole = records.images.get(id).is_some_and(|image| image.layers.iter().all(|layer| self.has_layer(layer)));
        if !whole {
            return Ok(false);
        }
        let before = records.clone();
        for name in names {
            records.name(name, id);
        }
        if records != before {
            self.finish(records)?;
        }
        Ok(true)
    }

    pub(super) fn add_built_in(&self, diff_id: &Digest) -> Result<(), ImageError> {
        let target = self.layer_path(diff_id);
        if target.exists() {
            return Ok(());
        }
        let scratch = self.scratch()?;
        builtin::write_root(&scratch.path).map_err(io_at("write the built-in image"))?;
        fs::rename(&scratch.path, &target).map_err(path_at("move a layer to", target))
    }

    fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let scratch = self.scratch()?;
        let temporary = scratch.path.join("blob");
        let written =
            File::create(&temporary).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(path_at("write", temporary.clone()))?;
        fs::rename(temporary, self.blob_path(digest)).map_err(path_at("move a blob to", self.blob_path(digest)))
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| {
            let limit = format!("the layer is larger than {} GiB", LARGEST_LAYER >> 30);
            io::Error::new(io::ErrorKind::FileTooLarge, limit)
        })?;
        Ok(count)
    }
}
