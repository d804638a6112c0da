//! `autopath [ZONES…] FILE|@kubernetes`: the search path of clients is followed by the server, as a resolv.conf or the pod's
//! namespace says it.

use serde::Serialize;

use super::Settings;
use crate::problem::Fault;
use crate::reader::Reader;
use crate::resolv::ResolvConf;
use crate::{Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Autopath {
    pub zones: Vec<Zone>,
    pub path: Path,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// By the pod that asks.
    Kubernetes,
    /// Of a file, with what it said.
    File { file: String, search: Vec<Zone> },
}

impl Settings for Autopath {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Autopath { zones: Vec::new(), path: Path::Kubernetes };
        while reader.stanza() {
            let Some(arguments) = reader.some("a resolv.conf, or @kubernetes") else { continue };
            let Some((path, zones)) = arguments.split_last() else { continue };
            settings.zones = reader.zones_or_block(zones);
            match path.text.strip_prefix('@') {
                Some("kubernetes") => settings.path = Path::Kubernetes,
                Some(_) => {
                    reader.bad::<()>(path, "@kubernetes, the only plugin that knows search paths");
                }
                None => match reader.around.sources.read(&path.text) {
                    Ok(bytes) => {
                        let search = ResolvConf::parse(&String::from_utf8_lossy(&bytes)).search;
                        settings.path = Path::File { file: path.text.clone(), search };
                    }
                    Err(source) => {
                        let of = reader.of();
                        reader.fault(path, Fault::Read { of, path: path.text.clone(), source: source.into() });
                    }
                },
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("autopath").with_all(&self.zones);
        vec![match &self.path {
            Path::Kubernetes => stanza.with("@kubernetes"),
            Path::File { file, .. } => stanza.with(file),
        }]
    }
}
