//! `acl [ZONES…] { ACTION [type TYPES…] [net NETWORKS…] }`: who may ask for what; the first line that fits decides. Without
//! types or with `*` it is about all, and so with networks.

use ipnet::IpNet;
use serde::Serialize;

use super::Settings;
use crate::reader::Reader;
use crate::token::Token;
use crate::{RecordType, Stanza, Zone};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acl {
    pub zones: Vec<Zone>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub action: Action,
    /// All if there are none.
    pub types: Vec<RecordType>,
    /// All if there are none.
    pub networks: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    /// REFUSED.
    Block,
    /// An empty answer.
    Filter,
    /// Nothing at all.
    Drop,
}

const ACTIONS: &[(&str, Action)] =
    &[("allow", Action::Allow), ("block", Action::Block), ("filter", Action::Filter), ("drop", Action::Drop)];
const OPTIONS: &[&str] = &["allow", "block", "filter", "drop"];

impl Settings for Vec<Acl> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut acls = Vec::new();
        while reader.stanza() {
            let arguments = reader.arguments();
            let mut acl = Acl { zones: reader.zones_or_block(&arguments), rules: Vec::new() };
            while let Some(option) = reader.option() {
                match ACTIONS.iter().find(|(name, _)| *name == option.text.to_lowercase()) {
                    Some((_, action)) => acl.rules.extend(rule(reader, *action)),
                    None => reader.unknown(option, OPTIONS),
                }
            }
            acls.push(acl);
        }
        acls
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let line = |stanza: Stanza, rule: &Rule| {
            let name = ACTIONS.iter().find(|(_, action)| *action == rule.action).map_or("allow", |(name, _)| name);
            let mut words = vec!["type".to_owned()];
            match &rule.types[..] {
                [] => words.push("*".to_owned()),
                types => words.extend(types.iter().map(RecordType::to_string)),
            }
            words.push("net".to_owned());
            match &rule.networks[..] {
                [] => words.push("*".to_owned()),
                networks => words.extend(networks.iter().map(IpNet::to_string)),
            }
            stanza.line(name, words)
        };
        self.iter().map(|acl| acl.rules.iter().fold(Stanza::new("acl").with_all(&acl.zones), line)).collect()
    }
}

/// Sections may come in any order and more than once; a `*` makes the rest of its section superfluous.
fn rule(reader: &mut Reader<'_>, action: Action) -> Option<Rule> {
    let mut types: Option<Vec<RecordType>> = None;
    let mut networks: Option<Vec<IpNet>> = None;
    let (mut all_types, mut all_networks) = (false, false);
    let words = reader.arguments();
    let mut rest = &words[..];
    let section = |token: &&Token| ["type", "net"].contains(&token.text.to_lowercase().as_str());
    while let Some((first, after)) = rest.split_first() {
        if !section(first) {
            return reader.bad(first, "type or net");
        }
        let length = after.iter().position(section).unwrap_or(after.len());
        let (values, next) = after.split_at(length);
        rest = next;
        if values.is_empty() {
            reader.missing("values after type and net, or * for all");
            return None;
        }
        let star = values.iter().position(|token| token.text == "*");
        let values = &values[..star.unwrap_or(values.len())];
        if first.text.eq_ignore_ascii_case("type") {
            all_types |= star.is_some();
            for token in values {
                match RecordType::parse(&token.text) {
                    // CoreDNS has 0 for all.
                    Some(RecordType(0)) => all_types = true,
                    Some(found) => types.get_or_insert_default().push(found),
                    None => return reader.bad(token, "a type of records in capitals, such as AAAA, or *"),
                }
            }
        } else {
            if star.is_some() {
                (all_networks, networks) = (true, None);
            }
            for token in values {
                networks.get_or_insert_default().extend(network(reader, token));
            }
        }
    }
    let types = types.filter(|_| !all_types).unwrap_or_default();
    let networks = networks.filter(|_| !all_networks).unwrap_or_default();
    Some(Rule { action, types, networks })
}

/// A CIDR, or an address alone.
fn network(reader: &mut Reader<'_>, token: &Token) -> Option<IpNet> {
    let found =
        token.text.parse::<IpNet>().or_else(|_| token.text.parse().map(|address: std::net::IpAddr| address.into()));
    match found {
        Ok(network) => Some(network.trunc()),
        Err(_) => reader.bad(token, "an address, a CIDR such as 10.0.0.0/8, or *"),
    }
}
