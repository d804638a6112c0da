//! Whether two answers are the same, and where they aren't, whether that is one of the differences that
//! `docs/adr/0028-dns-answers-are-corednss-with-corrections.md` gives letters to. Each is recognised by its question and by
//! both answers: whatever else differs is a finding.

use hickory_proto::op::ResponseCode;

use super::ask::{Question, Reading};
use super::objects::World;
use super::setups::Setup;

pub enum Verdict {
    Same,
    /// With the letter that says why.
    OnPurpose(char),
    Different,
}

const CNAME: u16 = 5;
const SOA: u16 = 6;
const NS: u16 = 2;
const TXT: u16 = 16;
const SRV: u16 = 33;
const ADDRESSES: [u16; 2] = [1, 28];

pub fn judge(world: &World, setup: &Setup, question: &Question, theirs: &Reading, ours: &Reading) -> Verdict {
    let same = theirs.code == ours.code
        && theirs.answers == ours.answers
        && theirs.authority == ours.authority
        && theirs.additional == ours.additional;
    if same {
        return Verdict::Same;
    }
    let asked = Asked::new(setup, question);
    let letter = [
        ('a', question.rr_type == SOA && theirs.no_data() && ours.denied()),
        ('b', asked.exists_without_a_record() && !theirs.authority.is_empty() | theirs.denied() && ours.no_data()),
        ('c', asked.is_port_without_underscores() && ours.denied() && theirs.code == ResponseCode::NoError),
        ('d', asked.is_pod() && setup.has("pods verified") && theirs.denied() && ours.code == ResponseCode::NoError),
        ('e', asked.leads_to_an_address(world) && ours.code == ResponseCode::NoError),
        (
            'f',
            asked.alias(world).is_some() && ADDRESSES.contains(&question.rr_type) && is_alias(ours) && theirs.no_data(),
        ),
        ('f', asked.alias(world).is_some() && ours.denied() && is_alias(ours) && theirs.answers == ours.answers),
        ('f', asked.alias(world).is_some() && is_more_of_a_circle(theirs, ours)),
        ('k', asked.is_name_server() && question.name != asked.name && !ours.answers.is_empty()),
        ('g', asked.alias(world).is_some() && asked.neither_address_nor_alias() && is_alias(ours) && theirs.no_data()),
        ('h', asked.is_reverse() && question.rr_type == NS && theirs.code == ours.code),
        (
            'j',
            asked.is_reverse()
                && setup.has("namespace_labels")
                && ours.answers.iter().all(|r| theirs.answers.contains(r)),
        ),
        ('i', asked.is_pod() && question.rr_type == SRV && ours.no_data()),
    ];
    let letter = letter.into_iter().find(|(_, matches)| *matches).map(|(letter, _)| letter);
    letter.map_or(Verdict::Different, Verdict::OnPurpose)
}

/// Whether an answer begins with an alias.
fn is_alias(reading: &Reading) -> bool {
    reading.answers.iter().any(|record| record.contains(" cname "))
}

/// Whether both are aliases and nothing else, of which ours gives more before it stops.
fn is_more_of_a_circle(theirs: &Reading, ours: &Reading) -> bool {
    let aliases = ours.answers.iter().all(|record| record.contains(" cname "));
    aliases && theirs.code == ours.code && theirs.answers.iter().all(|record| ours.answers.contains(record))
}

/// A question's name, by what it could mean.
struct Asked {
    name: String,
    rr_type: u16,
    /// Below the zone, that which is nearest to it first.
    labels: Vec<String>,
}

impl Asked {
    fn new(setup: &Setup, question: &Question) -> Self {
        let name = question.name.to_lowercase();
        let zone = setup.zones.iter().find(|zone| name.ends_with(&format!(".{zone}")));
        let below = zone.and_then(|zone| name.strip_suffix(&format!(".{zone}"))).unwrap_or_default();
        let labels = below.rsplit('.').map(str::to_owned).collect();
        Asked { name, rr_type: question.rr_type, labels }
    }

    fn is_reverse(&self) -> bool {
        self.name.ends_with("arpa")
    }

    fn labels(&self) -> Vec<&str> {
        self.labels.iter().map(String::as_str).collect()
    }

    /// (b) Its children, or its records of another type, are there.
    fn exists_without_a_record(&self) -> bool {
        match self.labels()[..] {
            _ if self.is_reverse() => true,
            ["dns"] | ["dns", "ns"] | ["dns-version"] => true,
            // Denied for this type alone.
            ["svc" | "pod"] | ["svc" | "pod", _] => self.rr_type == TXT,
            ["svc", _, _, protocol] => protocol.starts_with('_'),
            ["svc", _, _, "_zone", "pin" | "prefer"] => true,
            _ => false,
        }
    }

    /// (c)
    fn is_port_without_underscores(&self) -> bool {
        match self.labels()[..] {
            ["svc", _, _, protocol, port] => !protocol.starts_with('_') || !port.starts_with('_'),
            _ => false,
        }
    }

    /// (k) The apex asked for its name servers, or the name that one has for want of a Service.
    fn is_name_server(&self) -> bool {
        let apex = self.labels()[..] == [""] && self.rr_type == NS;
        apex || self.labels()[..] == ["dns", "ns"]
    }

    fn is_pod(&self) -> bool {
        matches!(self.labels()[..], ["pod", _, _])
    }

    /// The name that it's an alias for.
    fn alias<'a>(&self, world: &'a World) -> Option<&'a str> {
        match self.labels()[..] {
            ["svc", namespace, service] => world.external_name(service, namespace),
            _ => None,
        }
    }

    /// (e) At the end of the chain.
    fn leads_to_an_address(&self, world: &World) -> bool {
        let mut next = self.alias(world).map(str::to_owned);
        for _ in 0..12 {
            let Some(target) = next else { return false };
            if target.parse::<std::net::IpAddr>().is_ok() {
                return true;
            }
            let labels: Vec<&str> = target.trim_end_matches('.').split('.').collect();
            next = match labels[..] {
                [service, namespace, "svc", ..] => world.external_name(service, namespace).map(str::to_owned),
                _ => None,
            };
        }
        false
    }

    fn neither_address_nor_alias(&self) -> bool {
        !ADDRESSES.contains(&self.rr_type) && self.rr_type != CNAME
    }
}
