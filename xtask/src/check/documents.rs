//! Documents that name paths or tests name ones that exist.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, tracked};

const WITH_PATHS: &[&str] = &["ARCHITECTURE.md", "README.md"];

pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for document in WITH_PATHS {
        let text = fs::read_to_string(root.join(document)).with_context(|| format!("cannot read {document}"))?;
        for path in quoted(&text).filter(|q| is_path(q)) {
            if !root.join(path.trim_end_matches('/')).exists() {
                findings.push(format!("{document} names `{path}`, which is not there"));
            }
        }
    }
    findings.extend(invariants(root)?);
    Ok(findings)
}

/// Every numbered invariant of ARCHITECTURE.md ends with its tests: `[test: name, name]`; each is a function somewhere.
fn invariants(root: &Path) -> Result<Vec<Finding>> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let section = text.split("## Invariants").nth(1).and_then(|s| s.split("\n## ").next()).unwrap_or_default();
    let mut sources = String::new();
    for file in tracked(root, "*.rs")? {
        sources.push_str(
            &fs::read_to_string(root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?,
        );
    }
    let mut findings = Vec::new();
    let items: Vec<&str> = section.split('\n').filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).collect();
    if items.is_empty() {
        findings.push("ARCHITECTURE.md has no numbered invariants under `## Invariants`".to_owned());
    }
    for item in items {
        let number = item.split('.').next().unwrap_or_default();
        let Some(tests) = item.split("[test: ").nth(1).and_then(|t| t.split(']').next()) else {
            findings.push(format!("ARCHITECTURE.md: invariant {number} names no test ([test: name])"));
            continue;
        };
        for test in tests.split(", ").map(|t| t.trim_matches('`')) {
            if !sources.contains(&format!("fn {test}(")) {
                findings.push(format!("ARCHITECTURE.md: invariant {number} names the test {test}, which is not there"));
            }
        }
    }
    Ok(findings)
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|l| !l.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn is_path(text: &str) -> bool {
    let known = ["crates/", "xtask/", "docs/", "examples/", "deploy/", ".ci/", ".cargo/"];
    known.iter().any(|k| text.starts_with(k)) && !text.contains(|c: char| c.is_whitespace() || "*<{…".contains(c))
}
