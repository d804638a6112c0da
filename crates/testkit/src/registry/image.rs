//! Images made on the spot: layers of files, in the documents that registries and archives keep.
//!
//! Not responsible for serving or packing them.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A layer as an uncompressed archive.
#[derive(Clone, Debug)]
pub struct Layer(pub Vec<u8>);

/// How a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
}

/// An image's documents and blobs.
#[derive(Clone, Debug)]
pub struct Packed {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Layer {
    /// Files by path, mode and content.
    pub fn of(files: &[(&str, u32, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, *content).expect("an archive in memory");
        }
        Layer(archive.into_inner().expect("an archive in memory"))
    }

    fn packed(&self, packing: Packing) -> Vec<u8> {
        match packing {
            Packing::Plain => self.0.clone(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&self.0).and_then(|()| encoder.finish()).expect("compression in memory")
            }
        }
    }
}

impl Packed {
    /// `config` is the part of the configuration that says how to run it; the platform is this machine's.
    pub fn new(layers: &[Layer], packing: Packing, config: Value) -> Self {
        Self::for_platform(layers, packing, config, architecture())
    }

    pub fn for_platform(layers: &[Layer], packing: Packing, config: Value, architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.0)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let kind = match packing {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        };
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| layer.packed(packing)).collect();
        let described: Vec<Value> = layers.iter().map(|layer| descriptor(kind, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": described,
        });
        Packed { manifest: manifest.to_string().into_bytes(), config, layers }
    }
}

/// `sha256:…` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// This machine's, as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
