//! Which destinations a relay leads to. Not responsible for those inside the system: their packets never get here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What becomes of packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Relayed.
    Outside,
    /// Refused: the relay's own machine would take it for its loopback, where it keeps what it shows to nobody else.
    Loopback,
    /// Refused: nobody forwards packets to addresses of a link (RFC 3927 section 7, RFC 4291 section 2.5.6), where a
    /// cloud's machines ask for their credentials; nor is there one who answers for a group.
    Link,
}

/// What becomes of packets to an address, by the address alone.
pub fn reach(to: IpAddr) -> Reach {
    match to {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(to: Ipv4Addr) -> Reach {
    // connect(2) to 0.0.0.0 is to the loopback; the whole of 0.0.0.0/8 is "this host" (RFC 1122 section 3.2.1.3).
    if to.is_loopback() || to.octets()[0] == 0 {
        Reach::Loopback
    } else if to.is_link_local() || to.octets()[0] >= 224 {
        Reach::Link
    } else {
        Reach::Outside
    }
}

fn reach_v6(to: Ipv6Addr) -> Reach {
    // A socket takes ::ffff:127.0.0.1 for 127.0.0.1, and ::127.0.0.1 is as old a way to say so.
    let embeds_v4 = to.to_ipv4().is_some();
    if embeds_v4 {
        Reach::Loopback
    } else if to.is_unicast_link_local() || to.is_multicast() {
        Reach::Link
    } else {
        Reach::Outside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_the_loopback_or_of_a_link_is_outside() {
        for (address, expected) in [
            ("127.0.0.1", Reach::Loopback),
            ("127.255.0.9", Reach::Loopback),
            ("0.0.0.0", Reach::Loopback),
            ("0.1.2.3", Reach::Loopback),
            ("::", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("::127.0.0.1", Reach::Loopback),
            ("169.254.169.254", Reach::Link),
            ("224.0.0.1", Reach::Link),
            ("255.255.255.255", Reach::Link),
            ("fe80::1", Reach::Link),
            ("ff02::1", Reach::Link),
            ("192.0.2.7", Reach::Outside),
            ("10.0.0.1", Reach::Outside),
            ("2001:db8::1", Reach::Outside),
            ("fd00:1::7", Reach::Outside),
        ] {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }
}
