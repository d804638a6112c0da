//! Replies of other servers, as they are given to our clients. Not responsible for asking those servers.

use crate::message::{Query, Rcode, Response, RrType};
use crate::records::{Data, Record};
use crate::wire;

/// A response, to this question, by its identifier and its name (RFC 5452 section 9.1).
pub fn answers(reply: &[u8], id: u16, query: &Query) -> bool {
    let header = wire::u16_at(reply, 0) == Ok(id) && reply.len() > wire::HEADER && reply[2] & 0x80 != 0;
    header
        && wire::u16_at(reply, 4) == Ok(1)
        && wire::name_at(reply, wire::HEADER).is_ok_and(|(name, _)| name == query.name)
}

/// Another server's reply as the answer to this client: its identifier, its spelling of the name, no longer than it takes.
pub fn relayed(query: &Query, mut reply: Vec<u8>, limit: usize) -> Vec<u8> {
    if reply.len() > limit {
        let mut cut = Response::code(Rcode::NoError).write(query, limit);
        cut[2] |= 0x02;
        cut[3] = cut[3] & 0xf0 | reply[3] & 0x0f;
        return cut;
    }
    reply[..2].copy_from_slice(&query.id.to_be_bytes());
    reply[2] = reply[2] & 0xfe | u8::from(query.recursion_desired);
    let question = query.question();
    if let Some(theirs) = reply.get_mut(wire::HEADER..wire::HEADER + question.len()) {
        theirs.copy_from_slice(question);
    }
    reply
}

/// The alias, and behind it what another server says of its target. Of other records than addresses and aliases only
/// the alias is given: the client can ask for the target itself.
pub fn chased(mut answers: Vec<Record>, reply: Option<&[u8]>) -> Response {
    let mut response = Response::code(Rcode::ServFail);
    if let Some(reply) = reply {
        response.rcode = match reply[3] & 0xf {
            0 => Rcode::NoError,
            3 => Rcode::NxDomain,
            _ => Rcode::ServFail,
        };
        let records = wire::records(reply).unwrap_or_default();
        answers.extend(records.iter().filter(|r| r.section == 0).filter_map(|raw| {
            let bytes = &reply[raw.data.clone()];
            let data = match RrType(raw.rr_type) {
                RrType::A => Data::A(<[u8; 4]>::try_from(bytes).ok()?.into()),
                RrType::AAAA => Data::Aaaa(<[u8; 16]>::try_from(bytes).ok()?.into()),
                RrType::CNAME => Data::Cname(wire::name_at(reply, raw.data.start).ok()?.0),
                _ => return None,
            };
            Some(Record { owner: raw.owner.clone(), ttl: raw.ttl, data })
        }));
    }
    response.answers = answers;
    response
}
