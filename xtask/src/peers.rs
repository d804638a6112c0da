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
/// Releases between those that machines carry and the one we emulate.
const KUBECTLS_BUILT: &[(&str, &str)] = &[("1.34", "v1.34.4"), ("1.35", "v1.35.4")];
const ETCD: &str = "v3.6.8";
const COREDNS: &str = "v1.15.0";

/// Programs of Kubernetes' own module.
const PARTS: &[(&str, &str)] = &[
    ("kubectl", "cmd/kubectl"),
    ("kube-apiserver", "cmd/kube-apiserver"),
    ("kube-controller-manager", "cmd/kube-controller-manager"),
    ("kube-proxy", "cmd/kube-proxy"),
    ("agnhost", "test/images/agnhost"),
];
/// Programs of etcd's modules.
const ETCD_PARTS: &[(&str, &str)] = &[("etcd", "go.etcd.io/etcd/server/v3"), ("etcdctl", "go.etcd.io/etcd/etcdctl/v3")];

/// Builds the named parts, or all of them, and prints their paths.
pub fn print(names: &[String]) -> Result<()> {
    let known = PARTS.iter().chain(ETCD_PARTS).map(|(name, _)| *name).chain(["coredns"]);
    let older = KUBECTLS_BUILT.iter().map(|(minor, _)| format!("kubectl-{minor}"));
    let known: Vec<String> = known.map(str::to_owned).chain(older).collect();
    let names = if names.is_empty() { &known[..] } else { names };
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!("no peer {unknown:?}; there are {}", known.join(", "));
    }
    for name in names {
        println_path(&built(name)?);
    }
    Ok(())
}

/// Where a peer's program is; it is built when it isn't there.
pub fn built(name: &str) -> Result<PathBuf> {
    match name {
        "etcd" | "etcdctl" => etcd_part(name),
        "coredns" => coredns(),
        part => match part.strip_prefix("kubectl-") {
            Some(minor) => kubectl(minor),
            None => kubernetes_part(part, KUBERNETES),
        },
    }
}

/// A kubectl of any release, `1.30` for one: the machine's own if it has it, else built.
pub fn kubectl(minor: &str) -> Result<PathBuf> {
    match beside_kubectl(&format!("kubectl.{minor}")) {
        Some(path) => Ok(path),
        None if KUBERNETES.starts_with(&format!("v{minor}.")) => kubernetes_part("kubectl", KUBERNETES),
        None => match KUBECTLS_BUILT.iter().find(|(known, _)| *known == minor) {
            Some((_, version)) => kubernetes_part("kubectl", version),
            None => kubernetes_part("kubectl", &format!("v{minor}.0")),
        },
    }
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

/// Where a peer is, if it has been built already.
pub fn at_hand(name: &str) -> Result<Option<PathBuf>> {
    let binary = home()?.join("bin").join(name);
    Ok(binary.is_file().then_some(binary))
}

/// Some distributions of kubectl carry several versions in one folder.
fn beside_kubectl(name: &str) -> Option<PathBuf> {
    let kubectl = fs::canonicalize(machine::find("kubectl")?).ok()?;
    let beside = kubectl.parent()?.join(name);
    machine::find(name).or_else(|| beside.is_file().then_some(beside))
}

/// `$PORTOLAN_PEERS`, or a folder of the user's cache.
fn home() -> Result<PathBuf> {
    match std::env::var_os("PORTOLAN_PEERS") {
        Some(path) => Ok(path.into()),
        None => cache("portolan-peers"),
    }
}

/// A folder of this name in the user's cache (`$XDG_CACHE_HOME`, or `~/.cache`).
pub fn cache(name: &str) -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(cache.join(name))
}

fn kubernetes_part(part: &str, version: &str) -> Result<PathBuf> {
    let home = home()?;
    let name = if version == KUBERNETES { part.to_owned() } else { format!("{part}-{}", minor_of(version)) };
    let binary = home.join("bin").join(name);
    if binary.is_file() {
        return Ok(binary);
    }
    needs_go(part, version, &binary)?;
    let module = kubernetes_module(&home, version)?;
    let minor = minor_of(version).trim_start_matches("1.");
    let stamp = "k8s.io/component-base/version";
    let flags = format!("-X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={minor}");
    let folder = PARTS.iter().find(|(name, _)| *name == part).map(|(_, folder)| *folder);
    let package = format!("k8s.io/kubernetes/{}", folder.with_context(|| format!("no part {part:?} of Kubernetes"))?);
    let mut build = go(&module);
    build.args(["build", "-mod=mod", "-o"]).arg(&binary).args(["-ldflags", &flags, &package]);
    step::run(&format!("build {part} {version}"), &mut build)?;
    Ok(binary)
}

/// `1.34` of `v1.34.2`.
fn minor_of(version: &str) -> &str {
    let version = version.trim_start_matches('v');
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

fn etcd_part(part: &str) -> Result<PathBuf> {
    let home = home()?;
    let binary = home.join("bin").join(part);
    if binary.is_file() {
        return Ok(binary);
    }
    needs_go(part, ETCD, &binary)?;
    let module = home.join(format!("etcd-{ETCD}"));
    if !module.join("go.sum").is_file() {
        fs::create_dir_all(&module).with_context(|| format!("cannot make {}", module.display()))?;
        fs::write(module.join("go.mod"), "module peers\n\ngo 1.24\n")?;
        write_imports(&module, ETCD_PARTS.iter().map(|(_, package)| (*package).to_owned()))?;
        let versions = ETCD_PARTS.iter().map(|(_, package)| format!("{package}@{ETCD}"));
        step::run("choose etcd's version", go(&module).arg("get").args(versions))?;
        step::run("resolve the module", go(&module).args(["mod", "tidy"]))?;
    }
    let package = ETCD_PARTS.iter().find(|(name, _)| *name == part).map_or("", |(_, package)| *package);
    step::run(&format!("build {part} {ETCD}"), go(&module).args(["build", "-o"]).arg(&binary).arg(package))?;
    Ok(binary)
}

fn coredns() -> Result<PathBuf> {
    let home = home()?;
    let binary = home.join("bin/coredns");
    if binary.is_file() {
        return Ok(binary);
    }
    needs_go("coredns", COREDNS, &binary)?;
    fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let mut install = go(&home);
    install.env("GOBIN", home.join("bin")).args(["install", &format!("github.com/coredns/coredns@{COREDNS}")]);
    step::run(&format!("build coredns {COREDNS}"), &mut install)?;
    Ok(binary)
}

fn needs_go(part: &str, version: &str, binary: &Path) -> Result<()> {
    if machine::find("go").is_none() {
        bail!(
            "{part} {version} is built from its Go module, and there is no `go` on this machine: install Go, or put the \
             binary at {}",
            binary.display()
        );
    }
    Ok(())
}

/// A file that imports what is to be built, so that its modules are resolved.
fn write_imports(module: &Path, packages: impl Iterator<Item = String>) -> Result<()> {
    let imports: String = packages.map(|package| format!("\t_ \"{package}\"\n")).collect();
    fs::write(module.join("tools.go"), format!("//go:build tools\n\npackage peers\n\nimport (\n{imports})\n"))?;
    Ok(())
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
    write_imports(&at, PARTS.iter().map(|(_, folder)| format!("k8s.io/kubernetes/{folder}")))?;
    step::run("resolve the module", go(&at).args(["mod", "tidy"]))?;
    Ok(at)
}
