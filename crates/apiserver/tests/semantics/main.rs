//! What clients may rely on, checked through the tower service: verbs, revisions, watches, deletion, discovery.

#![allow(clippy::unwrap_used)]

mod deletion;
mod discovery;
mod full_disk;
mod lists;
mod patches;
mod pods;
mod server;
mod services;
mod watches;
mod writes;
