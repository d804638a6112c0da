//! Real peers, built from their Go modules outside the tree: the originals that judge what we answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{machine, step};

/// The Kubernetes release we emulate, and the oldest kubectl of the scripted runs.
const KUBERNETES: &str = "v1.36.3";
const KUBECTL_OLD: &str = "v1.33.5";
const PARTS: &[&str] = &["kubectl", "kube-apiserver", "kube-controller-manager", "kube-proxy"];

/// Builds the named parts and prints their paths.
pub fn print(names: &[String]) -> Result<()> {
    for name in names {
        if !PARTS.contains(&name.as_str()) {
            bail!("no peer {name:?}; there are {}", PARTS.join(", "));
        }
        println_path(&kubernetes_part(name, KUBERNETES)?);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the command's output")]
fn println_path(path: &Path) {
    println!("{}", path.display());
}

/// The kubectls that the whole-system tests run: an older one and the newest; built when the machine hasn't got them.
pub fn kubectls() -> Result<Vec<PathBuf>> {
    let old = match beside_kubectl("kubectl.1.33") {
        Some(path) => path,
        None => kubernetes_part("kubectl", KUBECTL_OLD)?,
    };
    Ok(vec![old, kubernetes_part("kubectl", KUBERNETES)?])
}

/// Some distributions of kubectl carry several versions in one folder.
fn beside_kubectl(name: &str) -> Option<PathBuf> {
    let kubectl = fs::canonicalize(machine::find("kubectl")?).ok()?;
    let beside = kubectl.parent()?.join(name);
    machine::find(name).or_else(|| beside.is_file().then_some(beside))
}

/// `$PORTOLAN_PEERS`, or a folder of the user's cache.
fn home() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTOLAN_PEERS") {
        return Ok(path.into());
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither PORTOLAN_PEERS nor HOME is set")?).join(".cache")
        }
    };
    Ok(cache.join("portolan-peers"))
}

fn kubernetes_part(part: &str, version: &str) -> Result<PathBuf> {
    let home = home()?;
    let name = if version == KUBERNETES { part.to_owned() } else { format!("{part}-{version}") };
    let binary = home.join("bin").join(name);
    if binary.is_file() {
        return Ok(binary);
    }
    if machine::find("go").is_none() {
        bail!(
            "{part} {version} is built from its Go module, and there is no `go` on this machine: install Go, or put the binary at {}",
            binary.display()
        );
    }
    let module = kubernetes_module(&home, version)?;
    let minor = version.trim_start_matches("v1.").split('.').next().unwrap_or_default();
    let stamp = "k8s.io/component-base/version";
    let flags = format!("-X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={minor}");
    let package = format!("k8s.io/kubernetes/cmd/{part}");
    let mut build = go(&module);
    build.args(["build", "-mod=mod", "-o"]).arg(&binary).args(["-ldflags", &flags, &package]);
    step::run(&format!("build {part} {version}"), &mut build)?;
    Ok(binary)
}

fn go(module: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(module).env("GOFLAGS", "").env("CGO_ENABLED", "0");
    go
}

/// k8s.io/kubernetes replaces its siblings by folders that the published module lacks; a module of our own that
/// requires it and points each sibling at its published version can be built.
fn kubernetes_module(home: &Path, version: &str) -> Result<PathBuf> {
    let at = home.join(format!("module-{version}"));
    if at.join("go.sum").is_file() {
        return Ok(at);
    }
    fs::create_dir_all(&at).with_context(|| format!("cannot make {}", at.display()))?;
    let mut download = Command::new("go");
    download.current_dir(&at).args(["mod", "download", "-json", &format!("k8s.io/kubernetes@{version}")]);
    let answer: Value = serde_json::from_str(&step::output(&mut download)?).context("go mod download")?;
    let source = PathBuf::from(answer["Dir"].as_str().context("go mod download names no folder")?);
    let original = fs::read_to_string(source.join("go.mod")).context("the module's go.mod")?;
    let siblings = version.replacen("v1.", "v0.", 1);
    let mut manifest = String::from("module peers\n\n");
    for line in original.lines().filter(|l| l.starts_with("go ")) {
        manifest.push_str(&format!("{line}\n\nrequire k8s.io/kubernetes {version}\n\nreplace (\n"));
    }
    for sibling in original.lines().filter_map(|l| l.trim().split_once(" => ./staging/").map(|(name, _)| name)) {
        manifest.push_str(&format!("\t{sibling} => {sibling} {siblings}\n"));
    }
    manifest.push_str(")\n");
    fs::write(at.join("go.mod"), manifest)?;
    let imports: String = PARTS.iter().map(|part| format!("\t_ \"k8s.io/kubernetes/cmd/{part}\"\n")).collect();
    fs::write(at.join("tools.go"), format!("//go:build tools\n\npackage peers\n\nimport (\n{imports})\n"))?;
    step::run("resolve the module", go(&at).args(["mod", "tidy"]))?;
    Ok(at)
}
