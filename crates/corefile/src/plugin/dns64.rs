//! `dns64 [PREFIX] { prefix PREFIX; translate_all; allow_ipv4 }`: AAAA made of A (RFC 6147), below `64:ff9b::/96` by default.
//! Prefixes are of IPv6 and 32, 40, 48, 56, 64 or 96 bits long.

use ipnet::Ipv6Net;
use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::{Reader, Set};
use crate::token::Token;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dns64 {
    pub prefix: Ipv6Net,
    /// Also where there are AAAA.
    pub translate_all: bool,
    /// Also for queries that came by IPv4.
    pub allow_ipv4: bool,
}

const OPTIONS: &[&str] = &["prefix", "translate_all", "allow_ipv4"];

impl Settings for Dns64 {
    fn read(reader: &mut Reader<'_>) -> Self {
        let well_known = Ipv6Net::new_assert([0x64, 0xff9b, 0, 0, 0, 0, 0, 0].into(), 96);
        let mut settings = Dns64 { prefix: well_known, translate_all: false, allow_ipv4: false };
        while reader.stanza() {
            if let Some(token) = reader.at_most_one("a prefix") {
                settings.prefix.set(prefix(reader, token));
                if reader.option().is_some() {
                    // CoreDNS goes on behind it without a word.
                    reader.together("the block of a dns64 with a prefix counts for nothing", "put the prefix into it");
                    while reader.option().is_some() {}
                    continue;
                }
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "prefix" => {
                        let Some(token) = reader.one("a prefix") else { continue };
                        settings.prefix.set(prefix(reader, token));
                    }
                    "translate_all" => settings.translate_all = true,
                    "allow_ipv4" => settings.allow_ipv4 = true,
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("dns64").option("prefix", self.prefix);
        vec![stanza.flag("translate_all", self.translate_all).flag("allow_ipv4", self.allow_ipv4)]
    }
}

fn prefix(reader: &mut Reader<'_>, token: &Token) -> Option<Ipv6Net> {
    match token.text.parse::<Ipv6Net>() {
        Ok(prefix) if [32, 40, 48, 56, 64, 96].contains(&prefix.prefix_len()) => Some(prefix.trunc()),
        _ => reader.bad(token, "an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as 64:ff9b::/96"),
    }
}
