//! `refs.json`: which images there are and what they are called. The file is replaced whole, under the store's lock.
//!
//! Not responsible for the lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    /// By id (the configuration's digest).
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    /// Normalised names.
    pub(crate) refs: BTreeMap<String, Digest>,
    /// What was pulled: `host/path@` and the digest that the registry knows it by.
    #[serde(default)]
    pub(crate) digests: BTreeMap<String, Digest>,
    /// Of layers that are there, by diff id: the length of the uncompressed archive.
    #[serde(default)]
    pub(crate) sizes: BTreeMap<Digest, u64>,
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
        fs::rename(temporary, path)?;
        // The new name too.
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    /// The image of this name. One with a digest means that very image, whatever its tag says.
    pub(crate) fn id_of(&self, reference: &Reference) -> Option<Digest> {
        let pinned = reference.pinned().and_then(|name| self.digests.get(&name));
        pinned.or_else(|| self.refs.get(&reference.to_string())).cloned()
    }

    /// Gives the image a name; whoever had it before may be gone with that.
    pub(crate) fn name(&mut self, reference: &Reference, id: &Digest) {
        let displaced = match reference.pinned() {
            Some(pinned) => self.digests.insert(pinned, id.clone()),
            None => self.refs.insert(reference.to_string(), id.clone()),
        };
        if let Some(displaced) = displaced.filter(|displaced| displaced != id) {
            self.forget_digests(reference, &displaced);
            self.drop_if_nameless(&displaced);
        }
    }

    /// Gives the id of the image that had it.
    pub(crate) fn forget_name(&mut self, reference: &Reference) -> Option<Digest> {
        let pinned = reference.pinned().and_then(|name| self.digests.remove(&name));
        let id = pinned.or_else(|| self.refs.remove(&reference.to_string()))?;
        self.forget_digests(reference, &id);
        Some(id)
    }

    pub(crate) fn forget_names_of(&mut self, id: &Digest) {
        self.refs.retain(|_, named| named != id);
        self.digests.retain(|_, named| named != id);
    }

    /// What was pulled by a tag is also known by its digest; that goes with the repository's last tag.
    fn forget_digests(&mut self, reference: &Reference, id: &Digest) {
        let repository = reference.repository();
        let of_repository =
            |name: &str, mark: char| name.strip_prefix(&repository).is_some_and(|rest| rest.starts_with(mark));
        if !self.refs.iter().any(|(name, named)| named == id && of_repository(name, ':')) {
            self.digests.retain(|name, named| named != id || !of_repository(name, '@'));
        }
    }

    /// Forgets the image if it has no name any more; says whether it did.
    pub(crate) fn drop_if_nameless(&mut self, id: &Digest) -> bool {
        let named = self.refs.values().chain(self.digests.values()).any(|named| named == id);
        !named && self.images.remove(id).is_some()
    }

    pub(crate) fn uses_layer(&self, hex: &str) -> bool {
        self.images.values().any(|image| image.layers.iter().any(|layer| layer.hex() == hex))
    }

    pub(crate) fn names_of(&self, id: &Digest) -> Vec<String> {
        self.refs.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn digests_of(&self, id: &Digest) -> Vec<String> {
        self.digests.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }
}
