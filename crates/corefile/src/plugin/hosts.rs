//! `hosts [FILE [ZONES…]] { [ENTRIES] ttl SECONDS; no_reverse; reload DURATION; fallthrough [ZONES…]; … }`: answers from
//! `/etc/hosts` or another file, which is looked at each 5s by default (0s: never), and from entries in the block, which come
//! before `fallthrough`. The TTL is 3600 by default, from 1 to 65535.

use std::net::IpAddr;

use serde::Serialize;

use super::Settings;
use crate::problem::Fault;
use crate::reader::{Reader, Set};
use crate::token::Token;
use crate::{GoDuration, Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hosts {
    pub file: String,
    pub zones: Vec<Zone>,
    pub entries: Vec<Entry>,
    pub ttl: u32,
    /// PTR records are made of the entries.
    pub reverse: bool,
    pub reload: GoDuration,
    pub fallthrough: Vec<Zone>,
    /// Also for types of records that hosts can't have.
    pub fallthrough_unsupported: bool,
}

/// A line of a hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub address: IpAddr,
    pub names: Vec<String>,
}

const OPTIONS: &[&str] = &["fallthrough", "fallthrough_unsupported", "no_reverse", "ttl", "reload"];

impl Settings for Hosts {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut hosts = Hosts {
            file: "/etc/hosts".into(),
            zones: Vec::new(),
            entries: Vec::new(),
            ttl: 3600,
            reverse: true,
            reload: GoDuration::from_secs(5),
            fallthrough: Vec::new(),
            fallthrough_unsupported: false,
        };
        while reader.only_stanza() {
            let arguments = reader.arguments();
            let zones = match arguments.split_first() {
                Some((file, zones)) => {
                    hosts.file = file.text.clone();
                    reader.look(file, false);
                    zones
                }
                None => &[],
            };
            hosts.zones = reader.zones_or_block(zones);
            while let Some(option) = reader.option() {
                read_option(reader, &mut hosts, option);
            }
            if hosts.fallthrough_unsupported && hosts.fallthrough.is_empty() {
                reader.together("fallthrough_unsupported goes with fallthrough, which isn't there", "add fallthrough");
            }
        }
        hosts
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("hosts").with(&self.file).with_all(&self.zones);
        let stanza =
            self.entries.iter().fold(stanza, |stanza, entry| stanza.line(&entry.address.to_string(), &entry.names));
        let stanza = stanza.option("ttl", self.ttl).option("reload", self.reload).flag("no_reverse", !self.reverse);
        let stanza = stanza.list("fallthrough", &self.fallthrough);
        vec![stanza.flag("fallthrough_unsupported", self.fallthrough_unsupported)]
    }
}

fn read_option(reader: &mut Reader<'_>, hosts: &mut Hosts, option: &Token) {
    match option.text.as_str() {
        "fallthrough" => hosts.fallthrough = reader.fallthrough(),
        "fallthrough_unsupported" => hosts.fallthrough_unsupported |= reader.nothing(),
        "no_reverse" => hosts.reverse = false,
        "ttl" => {
            let Some(token) = reader.first("a number of seconds") else { return };
            hosts.ttl.set(reader.number(token, 1..=65535).and_then(|ttl| u32::try_from(ttl).ok()));
        }
        "reload" => {
            let Some(token) = reader.sole("a duration") else { return };
            hosts.reload.set(reader.duration(token, Some(GoDuration::ZERO)));
        }
        text => match text.parse() {
            Ok(address) if hosts.fallthrough.is_empty() => {
                let names: Vec<String> = reader.arguments().into_iter().map(|name| name.text.clone()).collect();
                if names.is_empty() {
                    reader.missing("names");
                }
                hosts.entries.push(Entry { address, names });
            }
            Ok(_) => {
                let problem = format!("the entry of {text} stands behind fallthrough");
                reader.fault(option, Fault::Together { problem, fix: "put it before" });
                reader.arguments();
            }
            Err(_) => reader.unknown(option, OPTIONS),
        },
    }
}
