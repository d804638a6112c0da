//! ExternalName Services: a CNAME, and what it leads to.

use std::net::IpAddr;

use super::{Answer, Found, Zone};
use crate::message::{Response, RrType};
use crate::name::Name;
use crate::records::{Data, Record};

/// Links of a chain that stay in our zones: as many as CoreDNS follows.
const CHAIN_MAX: usize = 11;

/// (g) Whatever type is asked for: an alias stands for all of them (RFC 1034 section 3.6.2).
pub(super) fn answer(first: &Zone<'_>, external_name: &str) -> Answer {
    let mut answers: Vec<Record> = Vec::new();
    let (mut zone, mut owner, mut target) = (*first, first.query.name.clone(), external_name.to_owned());
    while answers.len() < CHAIN_MAX {
        // (e) kube-dns answered with the address itself; a CNAME to `192.0.2.1.` helps nobody.
        if let Ok(address) = target.parse::<IpAddr>() {
            let Found::Records(records, _) = zone.addresses(&owner, &[address]) else { break };
            answers.extend(records);
            break;
        }
        let Some(name) = Name::parse(&target) else { break };
        let known = answers.iter().any(|record| record.owner == name) || owner == name;
        answers.push(Record { owner, ttl: zone.config.ttl, data: Data::Cname(name.clone()) });
        // A chain that returns to itself has been given whole.
        if known || zone.query.rr_type == RrType::CNAME {
            break;
        }
        let Some(next) = zone.config.zone_of(&name) else { return Answer::Chase { answers, target: name } };
        zone = Zone { name: next, ..zone };
        match zone.find(&name) {
            Found::External(next) => (owner, target) = (name, next),
            Found::Records(records, additional) => {
                answers.extend(records);
                return Answer::Respond(first.response(answers, additional));
            }
            Found::Nothing if zone.config.falls_through(&name) => return Answer::Chase { answers, target: name },
            // (f) The alias exists, what it names doesn't (RFC 2308 section 2.1: the code is that of the last name).
            Found::Nothing => return Answer::Respond(Response { answers, ..zone.name_error() }),
        }
    }
    Answer::Respond(first.response(answers, Vec::new()))
}
