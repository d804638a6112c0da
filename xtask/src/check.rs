//! `cargo xtask check`: rules that a compiler doesn't know.

mod documents;
mod layers;
mod shape;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::step;

/// A rule that is broken, in one line that says where and how to mend it.
pub type Finding = String;

/// Runs every check and prints all findings before failing.
pub fn run() -> Result<()> {
    let root = root()?;
    let mut findings = layers::check(&root)?;
    findings.extend(documents::check(&root)?);
    findings.extend(shape::check(&root)?);
    for finding in &findings {
        eprintln!("✗ {finding}");
    }
    match findings.len() {
        0 => {
            eprintln!("layers, documents and shape: as they should be");
            Ok(())
        }
        n => bail!("{n} rule(s) broken"),
    }
}

/// The workspace's folder.
pub fn root() -> Result<PathBuf> {
    let manifest = step::output(step::cargo().args(["locate-project", "--workspace", "--message-format=plain"]))?;
    Ok(Path::new(manifest.trim()).parent().context("the workspace has no folder")?.to_owned())
}

/// The tracked files below the root, so that build output and strays don't count.
pub fn tracked(root: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    let list =
        step::output(git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard", pattern]))?;
    Ok(list.lines().map(PathBuf::from).filter(|f| root.join(f).exists()).collect())
}
