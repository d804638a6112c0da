//! One image, from its name to its place in the store: the manifest for this machine, its configuration, its layers.
//!
//! Not responsible for sharing a pull among those who want it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::download;
use super::endpoint::{Endpoint, Mirrors};
use super::error::PullError;
use super::keys::Keys;
use super::session::{Ask, Session};
use super::transport::Transport;
use crate::digest::Digest;
use crate::error::{ImageError, path_at};
use crate::manifest::{Descriptor, ImageDocument, IndexOrManifest, Platform};
use crate::reference::Reference;
use crate::store::{Arrival, ImageStore, LayerArrival};

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
/// The distribution specification lets registries refuse manifests of more than 4 MiB.
const LONGEST_DOCUMENT: u64 = 8 << 20;
/// What overlay takes as lower directories (Linux, fs/overlayfs/params.h).
const MOST_LAYERS: usize = 500;
const DEEPEST_INDEX: u32 = 4;
/// Of one image, at a time.
const LAYERS: usize = 4;
/// How often a layer may be swept while the others come.
const ATTEMPTS: usize = 4;

/// How far a pull is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes; 0 until it is known.
    pub(crate) total: AtomicU64,
    pub(crate) done: AtomicU64,
}

pub(crate) struct Pull<'a> {
    pub(crate) store: &'a ImageStore,
    pub(crate) transport: &'a Transport,
    pub(crate) mirrors: &'a Mirrors,
    pub(crate) keys: &'a Keys,
    pub(crate) reference: &'a Reference,
    /// Bounds downloads of all images together.
    pub(crate) downloads: &'a Semaphore,
    pub(crate) progress: &'a Progress,
}

impl Pull<'_> {
    /// Asks each place in turn, and gives the image's id.
    pub(crate) async fn run(&self) -> Result<Digest, PullError> {
        if self.reference.is_local() {
            return Err(PullError::Local);
        }
        let mut failed = Vec::new();
        let (mirrors, own) = self.mirrors.endpoints(self.reference.host());
        for mirror in &mirrors {
            match self.from(mirror).await {
                Ok(id) => return Ok(id),
                Err(error) => {
                    tracing::warn!(image = %self.reference, mirror = mirror.base, %error, "a mirror fails");
                    failed.push(error.to_string());
                }
            }
        }
        self.from(&own).await.map_err(|error| match failed.is_empty() {
            true => error,
            false => PullError::Mirrors { own: error.into(), mirrors: failed.join("; ") },
        })
    }

    /// Tries what credentials there are for this place; a registry's are never shown to its mirrors.
    async fn from(&self, endpoint: &Endpoint) -> Result<Digest, PullError> {
        let credentials = match &endpoint.stands_for {
            None => self.keys.of(self.reference).await?,
            Some(_) => {
                let authority = endpoint.base.split("://").nth(1).and_then(|rest| rest.split('/').next());
                match authority.and_then(|host| format!("{host}/{}", self.reference.path()).parse().ok()) {
                    Some(there) => self.keys.of(&there).await?,
                    None => Vec::new(),
                }
            }
        };
        let Some((last, others)) = credentials.split_last() else {
            return self.with(&Session::new(self.transport, endpoint, self.reference, None)).await;
        };
        for credential in others {
            match self.with(&Session::new(self.transport, endpoint, self.reference, Some(credential))).await {
                Err(error) if error.is_denial() => {}
                other => return other,
            }
        }
        self.with(&Session::new(self.transport, endpoint, self.reference, Some(last))).await
    }

    async fn with(&self, session: &Session<'_>) -> Result<Digest, PullError> {
        let pinned = self.reference.digest();
        let tag = self.reference.tag().unwrap_or("latest");
        let asked = pinned.map_or_else(|| tag.to_owned(), ToString::to_string);
        let (top, document) = self.manifest(session, &asked, pinned).await?;
        let by_digest = self.reference.with_digest(&top);
        let names = if pinned.is_some() { vec![by_digest] } else { vec![self.reference.clone(), by_digest] };
        if let Some(id) = self.known(&names).await? {
            return Ok(id);
        }
        let manifest = self.for_this_machine(session, document).await?;
        let (config, document) = self.config(session, &manifest).await?;
        let mut attempt = 1;
        loop {
            let layers = self.layers(session, &manifest.layers, &document.rootfs.diff_ids).await?;
            let (store, arrival) =
                (self.store.clone(), Arrival { config: config.clone(), layers, names: names.clone() });
            match blocking(move || store.commit(arrival)).await {
                Err(PullError::Store(ImageError::LayerGone(_))) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    /// The image, when the registry's answer is one that is here; it gets the names it doesn't have yet.
    async fn known(&self, names: &[Reference]) -> Result<Option<Digest>, PullError> {
        let (store, names) = (self.store.clone(), names.to_vec());
        blocking(move || {
            let last = names.last().map(ToString::to_string).unwrap_or_default();
            match store.get(&last)? {
                Some(image) if store.add_names(&image.id, &names)? => Ok(Some(image.id)),
                _ => Ok(None),
            }
        })
        .await
    }

    /// A manifest or index, with the digest of its bytes.
    async fn manifest(
        &self,
        session: &Session<'_>,
        what: &str,
        expected: Option<&Digest>,
    ) -> Result<(Digest, IndexOrManifest), PullError> {
        let ask = Ask { kind: "manifests", what, accept: MANIFESTS, from: 0 };
        let bytes = session.get(&ask).await?.whole(LONGEST_DOCUMENT as usize).await?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| **expected != actual) {
            return Err(PullError::Mismatch { what: session.url(&ask), expected: expected.clone(), actual });
        }
        let document: IndexOrManifest = parse(session.url(&ask), &bytes)?;
        if document.schema_version == 1 {
            return Err(self.not_an_image("its manifest has the form of before 2016 (schema 1)".to_owned()));
        }
        Ok((actual, document))
    }

    async fn for_this_machine(
        &self,
        session: &Session<'_>,
        mut document: IndexOrManifest,
    ) -> Result<IndexOrManifest, PullError> {
        for _ in 0..DEEPEST_INDEX {
            if document.config.is_some() {
                return match document.foreign_kind() {
                    Some(kind) => Err(self.not_an_image(format!("its configuration is {kind}"))),
                    None => Ok(document),
                };
            }
            let Some(chosen) = document.for_this_machine() else { return Err(self.no_platform(document.platforms())) };
            let digest = chosen.digest.clone();
            (_, document) = self.manifest(session, &digest.to_string(), Some(&digest)).await?;
        }
        Err(self.not_an_image("its index leads to indexes only".to_owned()))
    }

    async fn config(
        &self,
        session: &Session<'_>,
        manifest: &IndexOrManifest,
    ) -> Result<(Vec<u8>, ImageDocument), PullError> {
        let Some(config) = &manifest.config else {
            return Err(self.not_an_image("its manifest has no configuration".to_owned()));
        };
        let name = config.digest.to_string();
        let ask = Ask { kind: "blobs", what: &name, accept: "*/*", from: 0 };
        let bytes = session.get(&ask).await?.whole(LONGEST_DOCUMENT as usize).await?;
        let (what, actual) = (session.url(&ask), Digest::of(&bytes));
        if actual != config.digest {
            return Err(PullError::Mismatch { what, expected: config.digest.clone(), actual });
        }
        let document: ImageDocument = parse(what, &bytes)?;
        let theirs =
            Platform { architecture: document.architecture.clone(), os: document.os.clone(), variant: String::new() };
        if !theirs.architecture.is_empty() && !theirs.is_ours() {
            return Err(self.no_platform(theirs.to_string()));
        }
        let (layers, diff_ids) = (manifest.layers.len(), document.rootfs.diff_ids.len());
        if layers > MOST_LAYERS {
            let (actual, limit) = (layers as u64, MOST_LAYERS as u64);
            return Err(PullError::TooMuch { what: "the image", actual, unit: "layers", limit });
        }
        if layers != diff_ids {
            return Err(ImageError::LayerCount { layers, diff_ids }.into());
        }
        Ok((bytes, document))
    }

    /// Downloads and unpacks what isn't here yet, several at a time.
    async fn layers(
        &self,
        session: &Session<'_>,
        layers: &[Descriptor],
        diff_ids: &[Digest],
    ) -> Result<Vec<LayerArrival>, PullError> {
        let missing = layers.iter().zip(diff_ids).filter(|(_, diff_id)| !self.store.has_layer(diff_id));
        let needed = missing.fold(0_u64, |sum, (layer, _)| sum.saturating_add(layer.size));
        self.progress.done.store(0, Ordering::Relaxed);
        self.progress.total.store(needed, Ordering::Relaxed);
        self.room(needed)?;
        let coming = layers.iter().zip(diff_ids).map(|(layer, diff_id)| self.layer(session, layer, diff_id));
        // Boxed, since the compiler can't prove the borrowed closures general enough otherwise.
        let coming: Vec<_> = coming.map(futures::FutureExt::boxed).collect();
        stream::iter(coming).buffered(LAYERS).try_collect().await
    }

    async fn layer(
        &self,
        session: &Session<'_>,
        layer: &Descriptor,
        diff_id: &Digest,
    ) -> Result<LayerArrival, PullError> {
        let (store, diff_id, what) = (self.store.clone(), diff_id.clone(), format!("layer {}", layer.digest));
        if self.store.has_layer(&diff_id) {
            let gone = ImageError::LayerGone(diff_id.clone());
            return blocking(move || store.unpack_layer(&diff_id, &what, || Err::<&[u8], _>(gone))).await;
        }
        let turn = self.downloads.acquire().await;
        let path = self.store.downloads().join(layer.digest.hex());
        let downloaded = download::blob(session, &layer.digest, layer.size, &path, &self.progress.done).await?;
        drop(turn);
        blocking(move || store.unpack_layer(&diff_id, &what, || downloaded.open().map_err(path_at("open", path)))).await
    }

    fn room(&self, needed: u64) -> Result<(), PullError> {
        let path = PathBuf::from(self.store.directory());
        let Ok(system) = rustix::fs::statvfs(&path) else { return Ok(()) };
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if needed > free { Err(PullError::NoRoom { path, needed, free }) } else { Ok(()) }
    }

    fn not_an_image(&self, problem: String) -> PullError {
        PullError::NotAnImage { reference: self.reference.to_string(), problem }
    }

    fn no_platform(&self, others: String) -> PullError {
        PullError::NoPlatform { reference: self.reference.to_string(), wanted: Platform::ours().to_string(), others }
    }
}

fn parse<T: DeserializeOwned>(what: String, bytes: &[u8]) -> Result<T, PullError> {
    serde_json::from_slice(bytes).map_err(|source| PullError::Document { what, source })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, PullError> {
    Ok(spawn_blocking(work).await.map_err(|_| PullError::Panicked)??)
}
