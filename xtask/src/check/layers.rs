//! The four layers: a crate depends on its own layer or lower ones, and the pure layer on nothing that does IO.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use crate::step;

/// What a pure crate (layer 0) may not have among its normal dependencies: an event loop, sockets, a kernel interface,
/// randomness.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "hyper",
    "hyper-util",
    "kube",
    "rustix",
    "nix",
    "libc",
    "socket2",
    "rand",
    "rusqlite",
    "rtnetlink",
];

pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let metadata = step::output(step::cargo().current_dir(root).args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut findings = Vec::new();
    let mut layers = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        match package["metadata"]["portolan"]["layer"].as_u64() {
            Some(layer @ 0..=3) => {
                layers.insert(name, layer);
            }
            _ => findings.push(format!("crate {name}: [package.metadata.portolan] needs layer = 0, 1, 2 or 3")),
        }
    }
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = layers.get(name) else { continue };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let on = dependency["name"].as_str().unwrap_or_default();
            if let Some(layer) = layers.get(on).filter(|layer| *layer > own) {
                findings.push(format!(
                    "crate {name} (layer {own}) depends on {on} (layer {layer}): move what it needs down"
                ));
            }
            if *own == 0 && IMPURE.contains(&on) {
                findings.push(format!("crate {name} is pure (layer 0) but depends on {on}: pass its results in"));
            }
        }
    }
    Ok(findings)
}
