//! What a running system is made of, written down so that other commands (and `down` after a crash) find it.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{DataDir, HostTable};

/// The supervisor and its nodes. Process ids are the host's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub supervisor: i32,
    /// The host's end of the link into the fabric.
    pub host_link: String,
    /// What lets pods out by the host's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_table: Option<HostTable>,
    /// Cgroup of every container, below the root of each hierarchy.
    pub cgroup: String,
    /// What was asked of the network: only a system that is asked for the same takes over what a killed one left.
    #[serde(default)]
    pub asked: Vec<String>,
    pub nodes: Vec<NodeRecord>,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeRecord {
    pub name: String,
    /// The node's init: PID 1 inside, this id outside.
    pub init: i32,
    /// The process that started it and tidies up after its end.
    pub starter: i32,
}

impl Record {
    /// Writes the record so that a reader sees the old one or the new one.
    pub fn save(&self, dir: &DataDir) -> Result<()> {
        let path = dir.record();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).context("cannot encode the system's record")?;
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The record, if a system runs or has crashed.
    pub fn load(dir: &DataDir) -> Result<Option<Self>> {
        let path = dir.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display())).map(Some)
    }

    /// Forgets the system: it's gone.
    pub fn forget(dir: &DataDir) -> Result<()> {
        match fs::remove_dir_all(dir.run()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", dir.run().display()))
            }
            _ => Ok(()),
        }
    }

    /// The node by name, or the first.
    pub fn node(&self, name: Option<&str>) -> Option<&NodeRecord> {
        match name {
            Some(name) => self.nodes.iter().find(|n| n.name == name),
            None => self.nodes.first(),
        }
    }
}
