//! `k8s_external [ZONES…] { apex LABEL; ttl SECONDS; headless; fallthrough [ZONES…] }`: Services' external addresses as
//! `SERVICE.NAMESPACE.ZONE`. The apex' own records are below `dns` by default; the TTL is 5, from 0 to 3600.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct K8sExternal {
    pub zones: Vec<Zone>,
    pub apex: String,
    pub ttl: u32,
    /// Addresses of headless Services' endpoints, too.
    pub headless: bool,
    pub fallthrough: Vec<Zone>,
}

const OPTIONS: &[&str] = &["apex", "ttl", "headless", "fallthrough"];

impl Settings for K8sExternal {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings =
            K8sExternal { zones: Vec::new(), apex: "dns".into(), ttl: 5, headless: false, fallthrough: Vec::new() };
        while reader.stanza() {
            let arguments = reader.arguments();
            settings.zones = reader.zones_or_block(&arguments);
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "apex" => settings.apex.set(reader.first("a label").map(|token| token.text.clone())),
                    "ttl" => {
                        let Some(token) = reader.first("a number of seconds") else { continue };
                        settings.ttl.set(reader.number(token, 0..=3600).and_then(|ttl| u32::try_from(ttl).ok()));
                    }
                    "headless" => settings.headless = true,
                    "fallthrough" => settings.fallthrough = reader.fallthrough(),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("k8s_external").with_all(&self.zones).option("apex", &self.apex);
        let stanza = stanza.option("ttl", self.ttl).flag("headless", self.headless);
        vec![stanza.list("fallthrough", &self.fallthrough)]
    }
}
