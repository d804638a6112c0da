//! Reverse names: what an address stands for (RFC 1035 section 3.5, RFC 3596 section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Found, Zone, nothing_of_the_type};
use crate::config::reverse_roots;
use crate::message::RrType;
use crate::name::Name;
use crate::records::{Data, Record};
use crate::view::ReverseName;

/// Nibbles of an IPv6 address, octets of an IPv4 one.
const NIBBLES: usize = 32;
const OCTETS: usize = 4;

pub(super) fn find(zone: &Zone<'_>, owner: &Name) -> Found {
    let Some((low, high)) = range(owner) else { return Found::Nothing };
    if low != high {
        // (b) Names of addresses lie below: it exists. Where names are left to others, that one is theirs to know.
        let exists = !zone.falls_through() && zone.view.any_between(low, high);
        return if exists { nothing_of_the_type() } else { Found::Nothing };
    }
    let config = zone.config;
    let filtered = !config.namespaces.is_empty() || config.namespace_labels.is_some();
    let mut names = zone.view.reverse(low);
    names.retain(|name| !filtered || zone.shows(&name.service.namespace));
    if names.is_empty() {
        return Found::Nothing;
    }
    if zone.query.rr_type != RrType::PTR {
        return nothing_of_the_type();
    }
    let Some(primary) = zone.primary() else { return Found::Nothing };
    let records = names.iter().filter_map(|name| target(&primary, name));
    let record = |target| Record { owner: owner.clone(), ttl: config.ttl, data: Data::Ptr(target) };
    Found::Records(records.map(record).collect(), Vec::new())
}

/// `<service>.<namespace>.svc`, below it the endpoint.
fn target(zone: &Zone<'_>, name: &ReverseName<'_>) -> Option<Name> {
    let service = format!("{}.{}.svc", name.service.name, name.service.namespace);
    match name.endpoint {
        Some(endpoint) => zone.below(&format!("{}.{service}", endpoint.label())),
        None => zone.below(&service),
    }
}

/// The address that a whole reverse name spells.
pub(super) fn address(name: &Name) -> Option<IpAddr> {
    range(name).filter(|(low, high)| low == high).map(|(low, _)| low)
}

/// The addresses whose names lie at or below a reverse name.
fn range(name: &Name) -> Option<(IpAddr, IpAddr)> {
    let [v4, v6] = reverse_roots();
    if let Some(labels) = name.below(v4).filter(|labels| labels.len() <= OCTETS) {
        // As addresses are written: no sign, no zero in front.
        let octet = |label: &String| label.parse::<u8>().ok().filter(|octet| octet.to_string() == *label);
        let known: Vec<u8> = labels.iter().map(octet).collect::<Option<_>>()?;
        let end = |fill: u8| {
            let mut octets = [fill; OCTETS];
            octets[..known.len()].copy_from_slice(&known);
            IpAddr::V4(Ipv4Addr::from(octets))
        };
        return Some((end(0), end(u8::MAX)));
    }
    let labels = name.below(v6).filter(|labels| labels.len() <= NIBBLES)?;
    let nibble = |label: &String| match label.as_bytes() {
        [digit] => (*digit as char).to_digit(16),
        _ => None,
    };
    let known: Vec<u32> = labels.iter().map(nibble).collect::<Option<_>>()?;
    let end = |fill: u32| {
        let nibbles = known.iter().copied().chain(std::iter::repeat(fill)).take(NIBBLES);
        IpAddr::V6(Ipv6Addr::from_bits(nibbles.fold(0, |bits, nibble| bits << 4 | u128::from(nibble))))
    };
    Some((end(0), end(0xf)))
}

/// The reverse name of an address.
pub(crate) fn reverse_name(address: IpAddr) -> Option<Name> {
    let text = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    };
    Name::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_read_as_they_are_written() {
        for text in ["10.96.0.7", "0.0.0.0", "fd00:10:96::7", "::", "2001:db8:a:b:c:d:e:f"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(&reverse_name(ip).unwrap()), Some(ip));
        }
        let range = |text| range(&Name::parse(text).unwrap());
        let net = ("10.96.0.0".parse().unwrap(), "10.96.255.255".parse().unwrap());
        assert_eq!(range("96.10.in-addr.arpa"), Some(net));
        assert_eq!(range("D.f.ip6.arpa").unwrap().0, "fd00::".parse::<IpAddr>().unwrap());
        for none in
            ["x.10.in-addr.arpa", "01.in-addr.arpa", "256.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "10.ip6.arpa"]
        {
            assert_eq!(range(none), None, "{none}");
        }
    }
}
