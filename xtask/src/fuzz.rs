//! `cargo xtask fuzz`: libFuzzer on the functions of `crates/fuzz-targets`. Needs a C++ compiler and nothing else: the
//! instrumentation is the stable compiler's own (`fuzz/rustc`).
//!
//! What it finds is written into `fuzz/corpus`, where the suite meets it from then on; what merely reaches new code
//! stays in the target folder until `--keep` takes over what is small.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{check, step};

/// An input that takes longer than so many seconds, or more memory than so many MiB, is a finding.
const LIMITS: [&str; 2] = ["-timeout=25", "-rss_limit_mb=2048"];
/// Longer inputs find little more and take much longer.
const LONGEST: &str = "-max_len=4096";
/// Bytes that one target's kept inputs may have together.
const KEPT: u64 = 200_000;

/// What to run; without anything, the targets are listed.
#[derive(Args)]
pub struct Options {
    target: Option<String>,
    /// For each target; 20 for one that is named.
    #[arg(long)]
    minutes: Option<f64>,
    /// Take what reaches code that the kept inputs don't into fuzz/corpus, as far as it is small.
    #[arg(long)]
    keep: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let root = check::root()?;
    let targets = targets(&root)?;
    let chosen: Vec<&String> = match &options.target {
        None if options.minutes.is_none() && !options.keep => {
            targets.iter().for_each(|name| eprintln!("{name}"));
            return Ok(());
        }
        None => targets.iter().collect(),
        Some(target) => match targets.iter().find(|name| *name == target) {
            Some(name) => vec![name],
            None => bail!("no target {target:?}; there are {}", targets.join(", ")),
        },
    };
    step::run("build the fuzzer", cargo(&root, "build").args(FUZZER))?;
    for name in chosen {
        let kept = root.join("fuzz/corpus").join(name);
        let working = root.join("target/fuzz-corpus").join(name);
        fs::create_dir_all(&working).with_context(|| format!("cannot make {}", working.display()))?;
        if options.minutes.is_some() || !options.keep {
            let seconds = options.minutes.unwrap_or(20.0) * 60.0;
            let mut fuzzer = fuzzer(&root, name);
            fuzzer.arg(&working).arg(&kept).arg(format!("-max_total_time={seconds:.0}")).arg("-print_final_stats=1");
            fuzzer.arg(format!("-artifact_prefix={}/found-", kept.display()));
            step::run(&format!("fuzz {name}"), &mut fuzzer)?;
        }
        if options.keep {
            step::run(
                &format!("merge {name}"),
                fuzzer(&root, name).args(["-merge=1", "-use_counters=0"]).arg(&kept).arg(&working),
            )?;
            bound(&kept)?;
        }
    }
    Ok(())
}

/// The largest of what fuzzers made go until the rest is small; seeds and findings, which have names, stay.
fn bound(kept: &Path) -> Result<()> {
    let mut made: Vec<(u64, PathBuf)> = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir(kept).with_context(|| format!("cannot list {}", kept.display()))?.flatten() {
        let size = entry.metadata()?.len();
        total += size;
        // libFuzzer names files by their SHA-1.
        let name = entry.file_name().into_encoded_bytes();
        if name.len() == 40 && name.iter().all(u8::is_ascii_hexdigit) {
            made.push((size, entry.path()));
        }
    }
    made.sort();
    while total > KEPT
        && let Some((size, path)) = made.pop()
    {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        total -= size;
    }
    Ok(())
}

/// The targets by the folders of their inputs.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/corpus");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

const FUZZER: [&str; 6] = ["--package", "fuzz-targets", "--features", "libfuzzer", "--bin", "fuzz"];

fn fuzzer(root: &Path, target: &str) -> Command {
    let mut fuzzer = cargo(root, "run");
    fuzzer.args(FUZZER).args(["--quiet", "--"]).args(LIMITS).arg(LONGEST).env("FUZZ_TARGET", target);
    fuzzer.arg(format!("-dict={}", root.join("fuzz/words.dict").display()));
    fuzzer
}

fn cargo(root: &Path, verb: &str) -> Command {
    let mut cargo = step::cargo();
    cargo.arg(verb).arg("--release").current_dir(root).env("RUSTC_WORKSPACE_WRAPPER", root.join("fuzz/rustc"));
    cargo
}
