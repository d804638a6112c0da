//! The crate from outside, all in one program, which is linked once.
#![allow(clippy::unwrap_used)]

mod kube_proxy_config;
mod packet_table;
mod run;
