//! `secondary [ZONES…] { transfer from ADDRESSES…; fallthrough [ZONES…] }`: zones that are transferred from others.

use serde::Serialize;

use super::Settings;
use crate::reader::Reader;
use crate::token::Token;
use crate::zone;
use crate::{Stanza, Zone};

/// All directives of a server block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Secondaries {
    pub secondaries: Vec<Secondary>,
    pub fallthrough: Vec<Zone>,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Secondary {
    pub zones: Vec<Zone>,
    /// `ADDRESS:PORT`.
    pub from: Vec<String>,
}

const OPTIONS: &[&str] = &["transfer", "fallthrough"];

impl Settings for Secondaries {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Secondaries::default();
        while reader.stanza() {
            let arguments = reader.arguments();
            let mut secondary = Secondary { zones: reader.zones_or_block(&arguments), from: Vec::new() };
            let mut transferred = false;
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "transfer" => {
                        transferred = true;
                        from(reader, &mut secondary.from);
                    }
                    "fallthrough" => settings.fallthrough = reader.fallthrough(),
                    "catalog" => reader.unsupported(option, "name the zones"),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
            if !transferred {
                reader.together("secondary has no transfer", "add a block with transfer from ADDRESS");
            }
            settings.secondaries.push(secondary);
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |secondary: &Secondary| {
            let from = std::iter::once("from").chain(secondary.from.iter().map(String::as_str));
            let stanza = Stanza::new("secondary").with_all(&secondary.zones).line("transfer", from);
            stanza.list("fallthrough", &self.fallthrough)
        };
        self.secondaries.iter().map(stanza).collect()
    }
}

fn from(reader: &mut Reader<'_>, from: &mut Vec<String>) {
    let Some(word) = reader.one("from, and addresses") else { return };
    if word.text != "from" {
        reader.bad::<()>(word, "from");
        reader.arguments();
        return;
    }
    for token in reader.some("addresses").unwrap_or_default() {
        from.extend(address(reader, token));
    }
}

/// An address with its port, 53 by default.
pub(super) fn address(reader: &mut Reader<'_>, token: &Token) -> Option<String> {
    let (host, port) = match zone::split_address(&token.text) {
        Some((host, "")) => (host, "53"),
        Some(split) => split,
        None => (token.text.as_str(), "53"),
    };
    if !zone::is_address(host) {
        return reader.bad(token, "an IP address, or one with a port");
    }
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
