//! `refs.json`: which images there are and what they are called. The file is replaced whole, under the store's lock.
//!
//! Not responsible for the lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    /// By id (the configuration's digest).
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    /// Normalised names.
    pub(crate) refs: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecord {
    /// Lowest first.
    pub(crate) layers: Vec<Digest>,
    /// The layers' sizes as uncompressed archives.
    pub(crate) size: u64,
}

impl Records {
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    }

    /// Forgets the image if it has no name any more; says whether it did.
    pub(crate) fn drop_if_nameless(&mut self, id: &Digest) -> bool {
        !self.refs.values().any(|named| named == id) && self.images.remove(id).is_some()
    }

    pub(crate) fn uses_layer(&self, hex: &str) -> bool {
        self.images.values().any(|image| image.layers.iter().any(|layer| layer.hex() == hex))
    }

    pub(crate) fn names_of(&self, id: &Digest) -> Vec<String> {
        self.refs.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }
}
