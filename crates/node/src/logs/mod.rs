//! Container logs: what a request asks for, and reading the files that the runtime writes in CRI's line format
//! (`RFC3339Nano stdout|stderr F|P text`).
//!
//! Not responsible for HTTP (`server`) nor for writing.

mod query;
mod reader;

pub use query::LogQuery;
pub use reader::{LogError, LogFile, find, read};
