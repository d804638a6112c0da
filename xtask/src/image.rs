//! An image of the static binary alone, as an OCI layout in a tar that also reads as one of `docker save`. Not responsible
//! for pushing it anywhere.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::step;

const BINARY: &str = "portolan";
/// What is the same every time gives the same image: nothing in it says when it was made.
const MADE: &str = "1970-01-01T00:00:00Z";

#[derive(Args)]
pub struct Options {
    /// Where to write it.
    #[arg(long, default_value = "target/portolan-image.tar", value_name = "FILE")]
    output: PathBuf,
    /// What it is called.
    #[arg(long, default_value = concat!("portolan.local/portolan:", env!("CARGO_PKG_VERSION")), value_name = "NAME:TAG")]
    name: String,
    /// Pack this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    let content = std::fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let file = File::create(&options.output).with_context(|| format!("cannot write {}", options.output.display()))?;
    write(file, &content, &options.name)?;
    eprintln!("xtask: wrote {} to {}", options.name, options.output.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    let mut cargo = step::cargo();
    cargo.args(["build", "--release", "-p", "portolan", "--message-format=json-render-diagnostics"]);
    let built = step::output(cargo.stderr(std::process::Stdio::inherit()))?;
    let messages = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.filter(|path| path.ends_with(BINARY)).context("cargo has not said where the binary is")
}

/// A blob of the layout, by its content.
struct Blob {
    digest: String,
    content: Vec<u8>,
}

impl Blob {
    fn new(content: Vec<u8>) -> Blob {
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        Blob { digest, content }
    }

    fn of(value: &Value) -> Blob {
        Blob::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", self.digest), "size": self.content.len()})
    }
}

fn write(to: impl Write, binary: &[u8], name: &str) -> Result<()> {
    if !binary.starts_with(b"\x7fELF") {
        bail!("that is no program for Linux");
    }
    let layer = Blob::new(layer(binary)?);
    let config = Blob::of(&json!({
        "created": MADE, "architecture": architecture(binary), "os": "linux",
        "config": {"Entrypoint": [format!("/{BINARY}")], "Cmd": ["proxy"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created": MADE, "created_by": "cargo xtask image"}],
    }));
    let manifest = Blob::of(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }));
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
    let docker = json!([{"Config": config.path(), "RepoTags": [name], "Layers": [layer.path()]}]);
    let mut archive = tar::Builder::new(to);
    for (path, content) in [
        ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        ("manifest.json".to_owned(), docker.to_string().into_bytes()),
        (config.path(), config.content),
        (manifest.path(), manifest.content),
        (layer.path(), layer.content),
    ] {
        add(&mut archive, Path::new(&path), &content, 0o644)?;
    }
    archive.into_inner()?.flush().context("cannot write the image")
}

fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, Path::new(BINARY), binary, 0o755)?;
    Ok(archive.into_inner()?)
}

fn add(archive: &mut tar::Builder<impl Write>, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, path, content).context("cannot pack")
}

/// By the machine the program says it is for (elf(5): e_machine).
fn architecture(binary: &[u8]) -> &'static str {
    match binary.get(18..20) {
        Some([0xb7, 0]) => "arm64",
        _ => "amd64",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    #[test]
    fn every_blob_is_what_its_name_says_and_leads_to_the_binary() {
        let mut binary = b"\x7fELF".to_vec();
        binary.resize(64, 0);
        let (mut image, mut again) = (Vec::new(), Vec::new());
        write(&mut image, &binary, "portolan.local/portolan:1").unwrap();
        write(&mut again, &binary, "portolan.local/portolan:1").unwrap();
        assert_eq!(image, again, "the same gives the same");
        let files = files(&image);
        for (path, content) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(*path, Blob::new(content.clone()).path());
        }
        let at = |path: &str| -> Value { serde_json::from_slice(&files[path]).unwrap() };
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let manifest = at(&blob(&at("index.json")["manifests"][0]["digest"]));
        let config = at(&blob(&manifest["config"]["digest"]));
        let layer = &files[&blob(&manifest["layers"][0]["digest"])];
        assert_eq!(blob(&config["rootfs"]["diff_ids"][0]), blob(&manifest["layers"][0]["digest"]));
        assert_eq!(at("manifest.json")[0]["RepoTags"][0], "portolan.local/portolan:1");
        assert_eq!(super::tests::files(layer)["portolan"], binary);
        assert!(write(Vec::new(), b"#!/bin/sh", "x").is_err());
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        });
        entries.collect()
    }
}
