//! Files that hold one idea, and modules named for it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, tracked};

/// Lines at which a file has to be split.
const LINES_MAX: usize = 800;
/// Names that say nothing.
const NAMELESS: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in tracked(root, "*.rs")? {
        let text = fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().count();
        let shown = file.display();
        if lines > LINES_MAX {
            findings.push(format!("{shown} has {lines} lines, {LINES_MAX} is the end: split it by idea"));
        }
        if !text.starts_with("//!") {
            findings
                .push(format!("{shown} doesn't begin with `//!`: say what it is and what it's not responsible for"));
        }
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let folder = file.parent().and_then(|p| p.file_name()).and_then(|s| s.to_str()).unwrap_or_default();
        for name in [stem, folder] {
            if NAMELESS.contains(&name) {
                findings.push(format!("{shown}: `{name}` says nothing; name the concept"));
            }
        }
    }
    Ok(findings)
}
