//! The crate from outside, all in one program, which is linked once.
#![allow(clippy::unwrap_used)]

mod agreement;
mod kernel;
mod native;
