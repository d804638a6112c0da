//! Kubernetes kinds as the API serves them: schema table, defaults, validation, patches, protobuf, table columns.
//!
//! Pure: no clock, no files, no sockets. Not responsible for storing or serving anything.

pub mod field;
pub mod names;
pub mod resource;
pub mod table;

pub use resource::{Column, Context, Resource, Scope, Strategy, Subresource};
