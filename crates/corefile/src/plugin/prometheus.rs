//! `prometheus [ADDRESS] { runtime_metrics; tls FILE }`: where `/metrics` answers, `localhost:9153` by default.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::problem::Fault;
use crate::reader::{Reader, Set};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prometheus {
    pub address: String,
    /// More figures about the process itself.
    pub runtime_metrics: bool,
    /// A file of Prometheus' exporter toolkit that says how TLS is spoken.
    pub tls: Option<String>,
}

const OPTIONS: &[&str] = &["runtime_metrics", "tls"];

impl Settings for Prometheus {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Prometheus { address: "localhost:9153".into(), runtime_metrics: false, tls: None };
        while reader.only_stanza() {
            if let Some(address) = reader.at_most_one("an address") {
                settings.address.set(reader.listen(address));
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "runtime_metrics" => settings.runtime_metrics |= reader.nothing(),
                    "tls" if settings.tls.is_some() => {
                        reader.fault(option, Fault::Again(reader.of()));
                        reader.arguments();
                    }
                    "tls" => settings.tls = reader.sole("a file").map(|token| token.text.clone()),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("prometheus").with(&self.address);
        vec![stanza.flag("runtime_metrics", self.runtime_metrics).maybe("tls", self.tls.as_ref())]
    }
}
