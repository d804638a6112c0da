//! `transfer [ZONES…] { to ADDRESSES…|*; source ADDRESS }`: who may transfer zones (AXFR, IXFR), and is told of changes.

use std::net::IpAddr;

use serde::Serialize;

use super::{Settings, secondary};
use crate::problem::Fault;
use crate::reader::Reader;
use crate::{Stanza, Zone};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transfer {
    pub zones: Vec<Zone>,
    /// `ADDRESS:PORT`, or `*` for everybody, who can't be told.
    pub to: Vec<String>,
    /// Where notifications come from.
    pub source: Option<IpAddr>,
}

const OPTIONS: &[&str] = &["to", "source"];

impl Settings for Vec<Transfer> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut transfers = Vec::new();
        while reader.stanza() {
            let arguments = reader.arguments();
            let mut transfer = Transfer { zones: reader.zones_or_block(&arguments), to: Vec::new(), source: None };
            let mut refused = false;
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "to" => {
                        for token in reader.some("addresses, or *").unwrap_or_default() {
                            let to = match token.text.as_str() {
                                "*" => Some("*".to_owned()),
                                _ => secondary::address(reader, token),
                            };
                            refused |= to.is_none();
                            transfer.to.extend(to);
                        }
                    }
                    "source" if transfer.source.is_some() => {
                        reader.fault(option, Fault::Again(reader.of()));
                        reader.arguments();
                    }
                    "source" => {
                        let Some(token) = reader.sole("an IP address") else { continue };
                        transfer.source = match token.text.parse() {
                            Ok(source) => Some(source),
                            Err(_) => reader.bad(token, "an IP address"),
                        };
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
            if transfer.to.is_empty() && !refused {
                reader.together("transfer has no to", "add a block with to ADDRESS, or to *");
            }
            transfers.push(transfer);
        }
        transfers
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |transfer: &Transfer| {
            let stanza = Stanza::new("transfer").with_all(&transfer.zones).list("to", &transfer.to);
            stanza.maybe("source", transfer.source)
        };
        self.iter().map(stanza).collect()
    }
}
