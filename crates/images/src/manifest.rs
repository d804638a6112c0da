//! The JSON documents of OCI images and docker archives, with the fields used here.
//!
//! Not responsible for where they are stored.

use pod_runtime::signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;

/// Where docker and OCI layouts keep an image's name.
pub(crate) const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// What an image says about the containers made from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `uid[:gid]` or names; empty is root.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// A name (`SIGQUIT`) or a number; empty is SIGTERM.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
}

/// The configuration document; its digest is the image's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageDocument {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default = "layers")]
    pub(crate) kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// An index or a manifest: the two are told apart by which list they have.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexOrManifest {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<Descriptor>,
    /// 1 was the form of before 2016, with neither list.
    #[serde(default)]
    pub(crate) schema_version: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: String,
}

/// One image of a docker archive's `manifest.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerManifest {
    pub(crate) config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<String>,
}

impl ImageConfig {
    /// The number of the signal to stop with.
    pub fn stop_signal_number(&self) -> i32 {
        const SIGTERM: i32 = 15;
        let text = self.stop_signal.trim();
        text.parse().ok().filter(|number| (1..=64).contains(number)).or_else(|| signal::number(text)).unwrap_or(SIGTERM)
    }
}

impl IndexOrManifest {
    /// The entry of an index for this machine: one that says nothing about platforms is for all.
    pub(crate) fn for_this_machine(&self) -> Option<&Descriptor> {
        let platform = |one: &Descriptor| one.platform.clone();
        let ours = |one: &&Descriptor| platform(one).is_none_or(|platform| platform.is_ours());
        // A variant may need more than the machine has (amd64/v3).
        let plain = |one: &&Descriptor| platform(one).is_none_or(|platform| platform.is_plain());
        let candidates = || self.manifests.iter().filter(ours);
        candidates().find(plain).or_else(|| candidates().next())
    }

    /// What an index has, for a person.
    pub(crate) fn platforms(&self) -> String {
        let known = self.manifests.iter().filter_map(|one| one.platform.as_ref()).filter(|one| one.os != "unknown");
        let mut names: Vec<String> = known.map(ToString::to_string).collect();
        names.dedup();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// What else than a container image a manifest describes: charts, signatures and so on are kept in registries too.
    pub(crate) fn foreign_kind(&self) -> Option<String> {
        const IMAGES: [&str; 4] = [
            "",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            "application/octet-stream",
        ];
        let kind = self.config.as_ref().map(|config| config.media_type.as_str())?;
        (!IMAGES.contains(&kind)).then(|| kind.to_owned())
    }
}

impl Platform {
    pub(crate) fn ours() -> Self {
        Self { architecture: architecture().to_owned(), os: "linux".to_owned(), variant: String::new() }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }

    fn is_plain(&self) -> bool {
        matches!((self.architecture.as_str(), self.variant.as_str()), (_, "") | ("amd64", "v1") | ("arm64", "v8"))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// This machine, in the words of images (Go's).
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn layers() -> String {
    "layers".to_owned()
}

/// Go writes empty lists and objects as null.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |text: &str| ImageConfig { stop_signal: text.into(), ..Default::default() }.stop_signal_number();
        let cases =
            [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGWINCH", 28), ("SIGRTMIN+3", 37), ("nonsense", 15)];
        for (text, expected) in cases {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn gos_nulls_are_read() {
        let text = r#"{"config":{"Cmd":["a"],"Entrypoint":null,"Env":null,"Labels":{}},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let document: ImageDocument = serde_json::from_str(text).unwrap();
        assert_eq!(document.config.cmd, ["a"]);
        assert!(document.config.entrypoint.is_empty());
    }
}
