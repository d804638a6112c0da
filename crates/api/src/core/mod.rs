//! The kinds of the core group (`v1`).

pub mod config_map;
pub mod endpoints;
pub mod event;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod resource_quota;
pub mod secret;
pub mod service;
pub mod service_account;
