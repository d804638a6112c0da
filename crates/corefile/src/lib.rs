//! CoreDNS's configuration language as its release 1.15.0 reads it, and the settings of each plugin, as values.
//!
//! `parse` turns a Corefile into `Corefile`: server blocks with their keys, and in each the plugins in the order in which
//! they are asked, which `plugin::CHAIN` fixes and not the file. Everything that is wrong is told at once, each with its
//! place, what was expected there and how to mend it. Printed, a `Corefile` is one that reads the same, with every default
//! written out.
//!
//! Files and the environment come through `Sources`. Not responsible for what a plugin does with its settings, nor for
//! whether the names and devices that they speak of exist.

mod blocks;
mod duration;
mod glob;
mod names;
mod pattern;
mod place;
pub mod plugin;
mod problem;
mod reader;
mod resolv;
mod selector;
mod servers;
mod sources;
mod stanza;
mod token;
mod upstream;
mod zone;

use serde::Serialize;

pub use duration::GoDuration;
pub use names::{Rcode, RecordClass, RecordType};
pub use pattern::Pattern;
pub use place::Place;
pub use problem::{Fault, Problem, Problems};
pub use servers::{Listener, Served, ServerBlock};
pub use sources::{Fixed, Sources};
pub use stanza::Stanza;
pub use upstream::{Port, To};
pub use zone::{Key, Transport, Zone};

/// The release whose reading of Corefiles is followed.
pub const EMULATED: &str = "1.15.0";

/// What a Corefile says.
#[derive(Debug, Clone, Serialize)]
pub struct Corefile {
    pub servers: Vec<ServerBlock>,
    /// What is taken as CoreDNS takes it, and is hardly meant.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
}

/// Reads the Corefile `text`, which was found in `file`. `default_port` is that of keys of plain DNS without one.
pub fn parse(file: &str, text: &str, sources: &dyn Sources, default_port: u16) -> Result<Corefile, Problems> {
    let mut report = problem::Report::default();
    let blocks = blocks::read(file, text, sources, &mut report);
    let servers = servers::build(&blocks, sources, default_port, &mut report);
    match report.problems.is_empty() {
        true => Ok(Corefile { servers, warnings: report.warnings }),
        false => Err(report.finish()),
    }
}

impl std::fmt::Display for Corefile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, server) in self.servers.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{server}")?;
        }
        Ok(())
    }
}
