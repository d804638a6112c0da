//! The backend from outside, all in one program, which is linked once.
#![allow(clippy::unwrap_used)]

mod fake;
mod inside;
mod kernel;
mod packet_table;
