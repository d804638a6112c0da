//! Files that hold one idea, and modules named for it; documentation without examples that nothing runs.

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
        findings.extend(examples(&text).map(|line| {
            format!("{shown}:{line} is an example in documentation, which nothing runs: write a test (or ```text)")
        }));
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

/// The lines where rustdoc would see an example to run. `cargo xtask test` has no step for those.
fn examples(text: &str) -> impl Iterator<Item = usize> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let line = line.trim_start();
        let fence = ["///", "//!"].iter().find_map(|mark| line.strip_prefix(mark))?.trim_start().strip_prefix("```")?;
        inside = !inside;
        let language = fence.split([',', ' ']).next().unwrap_or_default();
        let is_rust = ["", "rust", "should_panic", "no_run", "compile_fail", "ignore"].contains(&language);
        (inside && (is_rust || language.starts_with("edition"))).then_some(number + 1)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn examples_are_seen_where_rustdoc_sees_them() {
        let text =
            "//! ```text\n//! a drawing\n//! ```\n/// ```\n/// run();\n/// ```\n    /// ```no_run\n    /// ```\n";
        assert_eq!(super::examples(text).collect::<Vec<_>>(), [4, 7]);
    }
}
