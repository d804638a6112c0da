//! The order in which free ClusterIPs and node ports are tried (KEP-3070, KEP-3668): dynamic picks come from the upper
//! band first, so that the lower one stays free for those who ask for a certain number. Whether a candidate is free is
//! the caller's to say; so is the random offset to start from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// The addresses of a range that Services may have: not the network's own, nor IPv4's broadcast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBand {
    first: u128,
    last: u128,
    /// How many addresses at the start are left to explicit requests.
    pub reserved: u64,
    ipv4: bool,
}

impl AddressBand {
    /// The usable addresses of `range`; `None` when it has none.
    pub fn of(range: &IpNet) -> Option<Self> {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let ipv4 = range.addr().is_ipv4();
        let network = number(range.network());
        // No range needs more than 2^64 addresses, and none may end at the very last one: counting stays in bounds.
        let end = number(range.broadcast()).min(network.saturating_add(u64::MAX.into())).min(u128::MAX - 1);
        let first = network.checked_add(1)?;
        let last = end.checked_sub(u128::from(ipv4))?;
        let size = u64::try_from(end.saturating_sub(network)).unwrap_or(u64::MAX).saturating_add(1);
        let reserved = reserved(size, 16, 256);
        (first <= last).then_some(AddressBand { first, last, reserved, ipv4 })
    }

    /// Whether a Service may have `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(ip) => self.ipv4 && (self.first..=self.last).contains(&u32::from(ip).into()),
            IpAddr::V6(ip) => !self.ipv4 && (self.first..=self.last).contains(&ip.into()),
        }
    }

    /// Every address once: the dynamic band from a place that `seed` decides, around its end, then the static band.
    pub fn candidates(self, seed: u64) -> impl Iterator<Item = IpAddr> {
        let split = self.first.saturating_add(self.reserved.into()).min(self.last + 1);
        let upper = wrapped(split, self.last + 1 - split, seed);
        let lower = wrapped(self.first, split - self.first, seed);
        upper.chain(lower).map(move |number| self.address(number))
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.ipv4 => IpAddr::V4(Ipv4Addr::from(number)),
            _ => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

/// Every node port once, in the same manner: with 30000-32767 the first 86 come last.
pub fn node_port_candidates(range: &RangeInclusive<u16>, seed: u64) -> impl Iterator<Item = u16> + use<> {
    let (first, end) = (u128::from(*range.start()), u128::from(*range.end()) + 1);
    let size = end.saturating_sub(first);
    let split = first + u128::from(reserved(size.try_into().unwrap_or(u64::MAX), 32, 128));
    let upper = wrapped(split, end.saturating_sub(split), seed);
    upper.chain(wrapped(first, split.min(end) - first, seed)).filter_map(|number| number.try_into().ok())
}

/// `min(max(16, size / step), max)`, and nothing of a range that is too small to share.
fn reserved(size: u64, step: u64, max: u64) -> u64 {
    if size <= 16 { 0 } else { (size / step).clamp(16, max) }
}

/// `count` numbers from `start` on, beginning somewhere in them and going around.
fn wrapped(start: u128, count: u128, seed: u64) -> impl Iterator<Item = u128> {
    let begin = if count == 0 { 0 } else { u128::from(seed) % count };
    (begin..count).chain(0..begin).map(move |i| start + i)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn band(range: &str) -> AddressBand {
        AddressBand::of(&range.parse().expect("a range")).expect("usable addresses")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn static_bands_have_the_size_of_the_keps() {
        let cases = [
            ("10.0.0.0/28", 0),
            ("10.0.0.0/27", 16),
            ("10.0.0.0/24", 16),
            ("10.0.0.0/20", 256),
            ("10.0.0.0/16", 256),
            ("10.0.0.0/22", 64),
            ("fd00::/112", 256),
            ("fd00::/64", 256),
            ("fd00::/8", 256),
        ];
        for (range, expected) in cases {
            assert_eq!(band(range).reserved, expected, "{range}");
        }
        assert!(AddressBand::of(&"10.0.0.0/32".parse().expect("a range")).is_none());
        assert!(AddressBand::of(&"10.0.0.0/31".parse().expect("a range")).is_none());
    }

    #[test]
    fn dynamic_picks_come_from_the_upper_band() {
        let band = band("10.96.0.0/24");
        assert_eq!(band.candidates(0).next(), Some(ip("10.96.0.17")));
        assert_eq!(band.candidates(5).next(), Some(ip("10.96.0.22")));
        assert_eq!(band.candidates(237).last(), Some(ip("10.96.0.13")));
        let all: Vec<IpAddr> = band.candidates(100).collect();
        assert_eq!(all.len(), 254);
        assert!(all[..238].iter().all(|a| *a >= ip("10.96.0.17")), "dynamic first");
        assert!(!all.contains(&ip("10.96.0.0")) && !all.contains(&ip("10.96.0.255")));
    }

    #[test]
    fn what_a_range_contains() {
        let cases = [
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "fd00::1", false),
            ("fd00::/112", "fd00::ffff", true),
            ("fd00::/112", "fd00::", false),
        ];
        for (range, address, expected) in cases {
            assert_eq!(band(range).contains(ip(address)), expected, "{range} {address}");
        }
    }

    #[test]
    fn node_ports_leave_the_first_86_for_last() {
        let range = 30000..=32767;
        let all: Vec<u16> = node_port_candidates(&range, 0).collect();
        assert_eq!((all[0], all.len()), (30086, 2768));
        assert_eq!(all[2768 - 86..], (30000..30086).collect::<Vec<u16>>());
        assert_eq!(
            node_port_candidates(&(65530..=65535), 2).collect::<Vec<_>>(),
            [65532, 65533, 65534, 65535, 65530, 65531]
        );
    }

    proptest! {
        #[test]
        fn each_candidate_comes_once(prefix in 20u8..=30, seed: u64) {
            let band = band(&format!("10.0.0.0/{prefix}"));
            let all: BTreeSet<IpAddr> = band.candidates(seed).collect();
            prop_assert_eq!(all.len(), (1usize << (32 - prefix)) - 2);
            prop_assert!(all.iter().all(|address| band.contains(*address)));
            prop_assert_eq!(node_port_candidates(&(30000..=32767), seed).collect::<BTreeSet<_>>().len(), 2768);
        }
    }
}
