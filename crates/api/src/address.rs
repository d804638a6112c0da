//! IP addresses and CIDRs as API fields hold them: parsing, validation, warnings, with upstream's words.
//!
//! Fields older than strict parsing ("legacy") accept any valid spelling, newer ones only the canonical form; from 1.36
//! on, legacy fields refuse leading zeros and IPv4-mapped addresses too (KEP-4858), unless the old object had them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::field::{self, Path, quoted};

/// The family of an address, as `ipFamilies` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn name(self) -> &'static str {
        match self {
            IpFamily::V4 => "IPv4",
            IpFamily::V6 => "IPv6",
        }
    }

    /// The family called `name`.
    pub fn named(name: &str) -> Option<Self> {
        [IpFamily::V4, IpFamily::V6].into_iter().find(|family| family.name() == name)
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            IpFamily::V4 => IpFamily::V6,
            IpFamily::V6 => IpFamily::V4,
        }
    }
}

/// Parses as `net.ParseIP` did before Go 1.17: leading zeros in IPv4 are ignored, IPv4-mapped addresses are IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let address: Ipv6Addr = text.parse().ok()?;
        return Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4));
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?, 255)?.try_into().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Parses `address/length` the same lenient way; also gives the address before the mask was applied.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, IpNet)> {
    let (address, length) = text.split_once('/')?;
    let mapped = address.contains(':') && !matches!(parse_ip(address)?, IpAddr::V6(_));
    let address = parse_ip(address)?;
    let bits = if address.is_ipv4() && !mapped { 32 } else { 128 };
    let length: u8 = decimal(length, bits)?.try_into().ok()?;
    let length = if mapped { length.checked_sub(96)? } else { length };
    let net = IpNet::new(address, length).ok()?;
    Some((address, net.trunc()))
}

/// Whether `text` is an IPv6 address.
pub fn is_ipv6(text: &str) -> bool {
    parse_ip(text).is_some_and(|ip| ip.is_ipv6())
}

/// Whether `text` is an IPv4 address.
pub fn is_ipv4(text: &str) -> bool {
    parse_ip(text).is_some_and(|ip| ip.is_ipv4())
}

/// Mistakes in an address of a legacy field; what the old object had there is always accepted.
pub fn validate_legacy_ip(path: &Path, text: &str, existing: &[&str]) -> Vec<field::Error> {
    if existing.contains(&text) { Vec::new() } else { strict_ip(path, text) }
}

/// Mistakes in an address of a newer field, which must be canonical.
pub fn validate_ip(path: &Path, text: &str) -> Vec<field::Error> {
    let mut errors = strict_ip(path, text);
    if let (true, Some(ip)) = (errors.is_empty(), parse_ip(text))
        && ip.to_string() != text
    {
        errors.push(field::Error::invalid(
            path,
            text,
            format!("must be in canonical form ({})", quoted(&ip.to_string())),
        ));
    }
    errors
}

/// Mistakes in a CIDR of a legacy field; what the old object had there is always accepted.
pub fn validate_legacy_cidr(path: &Path, text: &str, existing: &[&str]) -> Vec<field::Error> {
    if existing.contains(&text) { Vec::new() } else { strict_cidr(path, text) }
}

/// Mistakes in a CIDR of a newer field, which must be canonical.
pub fn validate_cidr(path: &Path, text: &str) -> Vec<field::Error> {
    let mut errors = strict_cidr(path, text);
    if let (true, Some((_, net))) = (errors.is_empty(), parse_cidr(text))
        && net.to_string() != text
    {
        let canonical = quoted(&net.to_string());
        errors.push(field::Error::invalid(path, text, format!("must be in canonical form ({canonical})")));
    }
    errors
}

/// Mistakes in the address of an endpoint or an external IP: those that can never be one.
pub fn validate_endpoint_ip(path: &Path, text: &str) -> Vec<field::Error> {
    let Some(ip) = parse_ip(text) else {
        return vec![field::Error::invalid(path, text, "must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mistakes = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    mistakes.into_iter().filter(|(wrong, _)| *wrong).map(|(_, what)| field::Error::invalid(path, text, what)).collect()
}

/// Warnings for an address in a legacy field that is valid or was once accepted, but not canonical.
pub fn ip_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some(ip) = parse_ip(text) else { return Vec::new() };
    if text.parse::<IpAddr>().is_err() || is_mapped(text) {
        let (given, better) = (quoted(text), quoted(&ip.to_string()));
        return vec![format!("{path}: non-standard IP address {given} is invalid: use {better}")];
    }
    if ip.is_ipv6() && ip.to_string() != text {
        let (given, better) = (quoted(text), quoted(&ip.to_string()));
        return vec![format!("{path}: IPv6 address {given} should be in RFC 5952 canonical format ({better})")];
    }
    Vec::new()
}

/// Warnings for a CIDR in a legacy field that is valid or was once accepted, but not canonical.
pub fn cidr_warnings(path: &Path, text: &str) -> Vec<String> {
    let Some((address, net)) = parse_cidr(text) else { return Vec::new() };
    let (given, better) = (quoted(text), quoted(&net.to_string()));
    let mut warnings = Vec::new();
    if address != net.network() {
        let single = quoted(&format!("{address}/{}", net.max_prefix_len()));
        warnings
            .push(format!("{path}: CIDR value {given} is ambiguous in this context (should be {better} or {single}?)"));
    }
    let standard = standard_cidr(text);
    if !standard || text.split('/').next().is_some_and(is_mapped) {
        warnings.push(format!("{path}: non-standard CIDR value {given} is invalid: use {better}"));
    }
    if warnings.is_empty() && address.is_ipv6() && net.to_string() != text {
        warnings.push(format!("{path}: IPv6 CIDR value {given} should be in RFC 5952 canonical format ({better})"));
    }
    warnings
}

fn strict_ip(path: &Path, text: &str) -> Vec<field::Error> {
    if parse_ip(text).is_none() {
        let what = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return vec![field::Error::invalid(path, text, what)];
    }
    if text.parse::<IpAddr>().is_err() {
        return vec![field::Error::invalid(path, text, "must not have leading 0s")];
    }
    if is_mapped(text) {
        return vec![field::Error::invalid(path, text, "must not be an IPv4-mapped IPv6 address")];
    }
    Vec::new()
}

fn strict_cidr(path: &Path, text: &str) -> Vec<field::Error> {
    let Some((address, net)) = parse_cidr(text) else {
        let what = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return vec![field::Error::invalid(path, text, what)];
    };
    let what = if !standard_cidr(text) {
        "must not have leading 0s in IP or prefix length"
    } else if text.split('/').next().is_some_and(is_mapped) {
        "must not have an IPv4-mapped IPv6 address"
    } else if address != net.network() {
        "must not have bits set beyond the prefix length"
    } else {
        return Vec::new();
    };
    vec![field::Error::invalid(path, text, what)]
}

/// What `netip.ParsePrefix` takes: no leading zeros in the address or the length.
fn standard_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        address.parse::<IpAddr>().is_ok() && (length == "0" || !length.starts_with('0'))
    })
}

fn is_mapped(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_ipv4_mapped().is_some())
}

/// A decimal number up to `max`, leading zeros allowed, nothing else.
fn decimal(text: &str, max: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return None;
    }
    let significant = text.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    significant.parse().ok().filter(|number| *number <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: Vec<field::Error>) -> Vec<String> {
        errors.iter().map(field::Error::body).collect()
    }

    #[test]
    fn legacy_addresses() {
        let path = Path::new("ip");
        const INVALID: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        let cases = [
            ("10.0.0.1", None),
            ("2001:DB8:0::1", None),
            ("", Some(INVALID)),
            ("10.0.0", Some(INVALID)),
            ("10.0.0.256", Some(INVALID)),
            ("1.2.3.4.5", Some(INVALID)),
            ("10.0.0.1/24", Some(INVALID)),
            ("010.0.0.1", Some("must not have leading 0s")),
            ("::ffff:1.2.3.4", Some("must not be an IPv4-mapped IPv6 address")),
        ];
        for (ip, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|e| format!("Invalid value: {ip:?}: {e}")).collect();
            assert_eq!(texts(validate_legacy_ip(&path, ip, &[])), expected, "{ip}");
            assert!(validate_legacy_ip(&path, ip, &[ip]).is_empty(), "{ip} was there before");
        }
        assert_eq!(
            texts(validate_ip(&path, "2001:DB8:0::1")),
            [r#"Invalid value: "2001:DB8:0::1": must be in canonical form ("2001:db8::1")"#]
        );
    }

    #[test]
    fn endpoint_addresses() {
        let path = Path::new("ip");
        const LOOPBACK: &str = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        const LINK_LOCAL: &str = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        const MULTICAST: &str = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        let cases = [
            ("10.1.2.3", None),
            ("224.0.1.1", None),
            ("x", Some("must be a valid IP address")),
            ("0.0.0.0", Some("may not be unspecified (0.0.0.0)")),
            ("::", Some("may not be unspecified (::)")),
            ("127.0.0.1", Some(LOOPBACK)),
            ("::1", Some(LOOPBACK)),
            ("169.254.1.1", Some(LINK_LOCAL)),
            ("fe80::1", Some(LINK_LOCAL)),
            ("224.0.0.1", Some(MULTICAST)),
            ("ff02::1", Some(MULTICAST)),
        ];
        for (ip, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|e| format!("Invalid value: {ip:?}: {e}")).collect();
            assert_eq!(texts(validate_endpoint_ip(&path, ip)), expected, "{ip}");
        }
    }

    #[test]
    fn cidrs() {
        let path = Path::new("cidr");
        let cases = [
            ("10.0.0.0/8", None),
            ("0.0.0.0/0", None),
            ("2001:DB8::/32", None),
            ("10.0.0.0", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            ("10.0.0.0/33", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            ("010.0.0.0/8", Some("must not have leading 0s in IP or prefix length")),
            ("10.0.0.0/08", Some("must not have leading 0s in IP or prefix length")),
            ("::ffff:10.0.0.0/104", Some("must not have an IPv4-mapped IPv6 address")),
            ("10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
        ];
        for (cidr, expected) in cases {
            let expected: Vec<String> = expected.iter().map(|e| format!("Invalid value: {cidr:?}: {e}")).collect();
            assert_eq!(texts(validate_legacy_cidr(&path, cidr, &[])), expected, "{cidr}");
        }
        assert_eq!(
            texts(validate_cidr(&path, "2001:DB8::/32")),
            [r#"Invalid value: "2001:DB8::/32": must be in canonical form ("2001:db8::/32")"#]
        );
    }

    #[test]
    fn warnings_for_what_is_accepted() {
        let path = Path::new("f");
        let ips: [(&str, &[&str]); 4] = [
            ("10.0.0.1", &[]),
            ("010.0.0.1", &[r#"f: non-standard IP address "010.0.0.1" is invalid: use "10.0.0.1""#]),
            ("::ffff:1.2.3.4", &[r#"f: non-standard IP address "::ffff:1.2.3.4" is invalid: use "1.2.3.4""#]),
            ("FE80::1", &[r#"f: IPv6 address "FE80::1" should be in RFC 5952 canonical format ("fe80::1")"#]),
        ];
        for (ip, expected) in ips {
            assert_eq!(ip_warnings(&path, ip), expected, "{ip}");
        }
        let cidrs: [(&str, &[&str]); 4] = [
            ("10.0.0.0/8", &[]),
            (
                "10.0.0.1/8",
                &[
                    r#"f: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)"#,
                ],
            ),
            ("010.0.0.0/8", &[r#"f: non-standard CIDR value "010.0.0.0/8" is invalid: use "10.0.0.0/8""#]),
            ("FE80::/10", &[r#"f: IPv6 CIDR value "FE80::/10" should be in RFC 5952 canonical format ("fe80::/10")"#]),
        ];
        for (cidr, expected) in cidrs {
            assert_eq!(cidr_warnings(&path, cidr), expected, "{cidr}");
        }
    }
}
