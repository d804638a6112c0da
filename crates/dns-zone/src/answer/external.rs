//! ExternalName Services: a CNAME, and what it leads to.

use std::net::IpAddr;

use super::{Answer, Found, Zone};
use crate::message::RrType;
use crate::name::Name;
use crate::records::{Data, Record};

/// Links of a chain that stay in the zone before it counts as a loop.
const CHAIN_MAX: usize = 8;

pub(super) fn answer(zone: &Zone<'_>, first: &str) -> Answer {
    let mut answers = Vec::new();
    let (mut owner, mut target) = (zone.query.name.clone(), first.to_owned());
    for _ in 0..CHAIN_MAX {
        // kube-dns answered with the address itself; a CNAME to `192.0.2.1.` helps nobody.
        if let Ok(address) = target.parse::<IpAddr>() {
            let Found::Records(records, _) = zone.addresses(&owner, &[address]) else { break };
            answers.extend(records);
            return Answer::Respond(zone.response(answers, Vec::new()));
        }
        let Some(name) = Name::parse(&target) else { return Answer::Respond(zone.response(answers, Vec::new())) };
        answers.push(Record { owner, ttl: zone.config.ttl, data: Data::Cname(name.clone()) });
        if zone.query.rr_type == RrType::CNAME {
            return Answer::Respond(zone.response(answers, Vec::new()));
        }
        let Some(labels) = name.below(&zone.config.zone) else { return Answer::Chase { answers, target: name } };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match zone.find(&name, &labels) {
            Found::External(next) => (owner, target) = (name, next),
            Found::Records(records, additional) => {
                answers.extend(records);
                return Answer::Respond(zone.response(answers, additional));
            }
            // The alias exists, what it names doesn't (RFC 2308 section 2.1: the code is that of the last name).
            Found::Nothing => {
                let mut response = zone.name_error();
                response.answers = answers;
                return Answer::Respond(response);
            }
        }
    }
    Answer::Respond(zone.response(answers, Vec::new()))
}
