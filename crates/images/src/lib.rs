//! Images on this machine: names, a store of configurations and unpacked layers, importing archives, pulling from
//! registries, and the built-in image. Several processes may use one store at once.
//!
//! Not responsible for running containers.

mod archive;
mod builtin;
mod compression;
mod digest;
mod entries;
mod error;
mod import_folder;
mod manifest;
mod record;
mod reference;
pub mod registry;
mod store;
mod unpack;

pub use builtin::TESTSERVER;
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use import_folder::{ImportFolder, Imported};
pub use manifest::ImageConfig;
pub use reference::{Reference, ReferenceError};
pub use store::{FileBind, Image, ImageStore};
