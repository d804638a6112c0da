//! Images on this machine: names, a store of configurations and unpacked layers, importing archives, and the built-in
//! image. Several processes may use one store at once.
//!
//! Not responsible for running containers, nor for registries.

mod archive;
mod builtin;
mod compression;
mod digest;
mod error;
mod manifest;
mod record;
mod reference;
mod store;
mod unpack;

pub use builtin::TESTSERVER;
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use manifest::ImageConfig;
pub use reference::{Reference, ReferenceError};
pub use store::{FileBind, Image, ImageStore};
