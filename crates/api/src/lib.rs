//! Kubernetes kinds as the API serves them: schema table, defaults, validation, patches, protobuf, table columns.
//!
//! Pure: no clock, no files, no sockets. Not responsible for storing or serving anything.

pub mod address;
pub mod apps;
pub mod coordination;
pub mod core;
pub mod decode;
pub mod discovery;
pub mod events;
pub mod field;
pub mod go_json;
pub mod kinds;
pub mod labels;
pub mod meta;
pub mod names;
pub mod networking;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod resource;
pub mod reviews;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod tree;

pub use kinds::{find_kind, resources};
pub use resource::{Caller, Column, Context, Resource, Scope, Strategy, Subresource};
