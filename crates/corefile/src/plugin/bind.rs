//! `bind HOST… { except HOST… }`: the addresses and devices to listen on, of all directives together.

use std::net::IpAddr;

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Bind {
    pub binds: Vec<Hosts>,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Hosts {
    /// Addresses, and names of devices whose addresses are meant.
    pub hosts: Vec<String>,
    /// The same of what is left out.
    pub except: Vec<String>,
}

const OPTIONS: &[&str] = &["except"];

impl Bind {
    /// What is listened on, as far as the file says.
    pub fn hosts(&self) -> Vec<String> {
        let kept = self.binds.iter().flat_map(|bind| bind.hosts.iter().filter(|host| !bind.except.contains(host)));
        kept.cloned().collect()
    }

    /// Whether a host is a device.
    pub fn is_device(host: &str) -> bool {
        host.parse::<IpAddr>().is_err()
    }
}

impl Settings for Bind {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Bind::default();
        while reader.stanza() {
            let mut bind = Hosts::default();
            let texts = |tokens: Option<Vec<&crate::token::Token>>| {
                tokens.unwrap_or_default().into_iter().map(|token| token.text.clone()).collect()
            };
            bind.hosts = texts(reader.some("an address or the name of a device"));
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "except" => bind.except = texts(reader.some("an address or the name of a device")),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
            settings.binds.push(bind);
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |bind: &Hosts| Stanza::new("bind").with_all(&bind.hosts).list("except", &bind.except);
        self.binds.iter().map(stanza).collect()
    }
}
