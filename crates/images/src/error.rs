//! Why an image can't be imported, found or removed.
//!
//! Not responsible for malformed names (`ReferenceError`) and digests (`DigestError`), which it carries.

use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, DigestError};
use crate::reference::ReferenceError;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("{step}: {source}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{step} {path}: {source}")]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file} in the archive is not what it should be: {source}")]
    Json {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "this is no tar archive, plain or compressed with gzip or zstd; make one with `docker save` or \
         `skopeo copy … oci-archive:FILE`"
    )]
    NotAnArchive,
    #[error(
        "this is neither an OCI layout (index.json) nor a docker archive (manifest.json); make one with `docker save` or \
         `skopeo copy … oci-archive:FILE`"
    )]
    UnknownArchive,
    #[error(
        "this docker archive is of a Docker before 1.10 (repositories without manifest.json): load it into a newer Docker \
         and `docker save` it there"
    )]
    OldArchive,
    #[error("{what} is no container image's manifest{kind}")]
    NotAnImage { what: String, kind: String },
    #[error("entry {entry:?} of the archive {problem}; nothing was loaded: make the archive anew")]
    ArchiveEntry { entry: String, problem: &'static str },
    #[error("this is neither a file nor a directory")]
    NoFile,
    #[error("there are {0} images in it: a name can be given to one only")]
    ManyImages(usize),
    #[error("layer {0} was removed while the image came in")]
    LayerGone(Digest),
    #[error("the archive says {file:?} but does not hold it; it may be cut short: make it anew")]
    Missing { file: String },
    #[error("the archive has no image for {wanted}; it has {others}")]
    NoPlatform { wanted: String, others: String },
    #[error("the image has {layers} layers but its configuration lists {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("{what} should have digest {expected} but has {actual}")]
    Mismatch { what: String, expected: Digest, actual: Digest },
    #[error("{layer}: entry {entry:?}: {source}; nothing was loaded: build the image anew")]
    Entry {
        layer: String,
        entry: String,
        #[source]
        source: io::Error,
    },
    #[error("{0:?} is reserved for images built into portolan")]
    Reserved(String),
}

pub(crate) fn io_at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ImageError {
    move |source| ImageError::Io { step, source: source.into() }
}

pub(crate) fn path_at<E: Into<io::Error>>(
    step: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> ImageError {
    move |source| ImageError::Path { step, path: path.into(), source: source.into() }
}
