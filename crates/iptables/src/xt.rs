//! The structs of xtables' matches and targets, as the kernel's headers have them on 64-bit machines, each in the revision
//! that every version of the tools since 1.8.0 writes. Not responsible for the rest of a rule (`native`).

use std::net::{IpAddr, SocketAddr};

use crate::Family;
use crate::rule::{Chance, Recent, Reject, States, Test};

/// The longest comment, without its zero byte (`XT_MAX_COMMENT_LEN`).
pub(crate) const COMMENT_LIMIT: usize = 255;
/// The longest name of a list, without its zero byte (`XT_RECENT_NAME_LEN`).
pub(crate) const RECENT_NAME_LIMIT: usize = 199;

/// A match or target with its struct.
pub(crate) struct Extension {
    pub name: &'static str,
    pub revision: u32,
    pub info: Vec<u8>,
}

/// Bytes in the machine's order, as C lays out a struct; what aligns its fields is written as `zeros`.
struct Layout(Vec<u8>);

impl Layout {
    fn new() -> Layout {
        Layout(Vec::new())
    }

    fn bytes(mut self, bytes: &[u8]) -> Layout {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(self, number: u16) -> Layout {
        self.bytes(&number.to_ne_bytes())
    }

    fn u32(self, number: u32) -> Layout {
        self.bytes(&number.to_ne_bytes())
    }

    fn zeros(mut self, count: usize) -> Layout {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Text in a field of a fixed size; its length was looked at.
    fn text(self, text: &str, size: usize) -> Layout {
        let rest = size.saturating_sub(text.len());
        self.bytes(text.as_bytes()).zeros(rest)
    }

    /// `union nf_inet_addr`
    fn address(self, address: IpAddr) -> Layout {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()).zeros(12),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    fn named(self, name: &'static str, revision: u32) -> Extension {
        Extension { name, revision, info: self.0 }
    }
}

/// `struct xt_comment_info` (`linux/netfilter/xt_comment.h`)
pub(crate) fn comment(text: &str) -> Extension {
    Layout::new().text(text, COMMENT_LIMIT + 1).named("comment", 0)
}

/// `struct xt_tcp` and `struct xt_udp` (`linux/netfilter/xt_tcpudp.h`), `struct xt_sctp_info` (`linux/netfilter/xt_sctp.h`).
/// Since 1.8.8 the tools compare ports by nf_tables' own expressions, which older ones can't show; all show this.
pub(crate) fn destination_port(protocol: u8, port: u16) -> Option<Extension> {
    /// `XT_SCTP_DEST_PORTS`
    const SCTP_DESTINATION: u32 = 2;
    let any_source = || Layout::new().u16(0).u16(u16::MAX);
    match protocol {
        6 => Some(any_source().u16(port).u16(port).zeros(4).named("tcp", 0)),
        17 => Some(any_source().u16(port).u16(port).zeros(2).named("udp", 0)),
        132 => {
            // The destination comes first here. Behind the source: chunks and how they are looked at, the flags of no chunk.
            let ports = Layout::new().u16(port).u16(port).zeros(4);
            let chunks = ports.zeros(64 * 4 + 4).bytes(&[u8::MAX, 0, 0].repeat(4)).u32(0);
            Some(chunks.u32(SCTP_DESTINATION).zeros(4).named("sctp", 0))
        }
        _ => None,
    }
}

/// `struct xt_addrtype_info_v1` (`linux/netfilter/xt_addrtype.h`)
pub(crate) fn is_local(source: bool) -> Extension {
    /// `XT_ADDRTYPE_LOCAL`
    const LOCAL: u16 = 4;
    let (source, destination) = if source { (LOCAL, 0) } else { (0, LOCAL) };
    Layout::new().u16(source).u16(destination).u32(0).named("addrtype", 1)
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`)
pub(crate) fn state(test: Test<States>) -> Extension {
    /// `XT_CONNTRACK_STATE`
    const STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_INVALID`, …: a bit each.
    const BITS: [(States, u16); 7] = [
        (States::INVALID, 1),
        (States::ESTABLISHED, 1 << 1),
        (States::RELATED, 1 << 2),
        (States::NEW, 1 << 3),
        (States::SNAT, 1 << 6),
        (States::DNAT, 1 << 7),
        (States::UNTRACKED, 1 << 8),
    ];
    let bits = BITS.iter().filter(|(state, _)| test.value.contains(*state)).map(|(_, bit)| bit).sum();
    // Four addresses with masks, when it expires, its protocol and ports.
    let before = Layout::new().zeros(8 * 16 + 8 + 5 * 2);
    let flags = before.u16(STATE).u16(if test.negated { STATE } else { 0 }).u16(bits);
    // The status, the upper ends of ranges of ports.
    flags.zeros(2 + 4 * 2).zeros(2).named("conntrack", 3)
}

/// `struct xt_mark_mtinfo1` (`linux/netfilter/xt_mark.h`); see `destination_port`.
pub(crate) fn mark(negated: bool, value: u32, mask: u32) -> Extension {
    Layout::new().u32(value).u32(mask).bytes(&[negated.into()]).zeros(3).named("mark", 1)
}

/// `struct xt_recent_mtinfo_v1` (`linux/netfilter/xt_recent.h`)
pub(crate) fn recent(name: &str, action: Recent) -> Extension {
    // XT_RECENT_CHECK, XT_RECENT_SET, XT_RECENT_REAP
    let (seconds, check_set) = match action {
        Recent::Remember => (0, 1 << 1),
        Recent::Within { seconds } => (seconds, 1 | 1 << 5),
    };
    let begin = Layout::new().u32(seconds).u32(0).bytes(&[check_set, 0]).text(name, RECENT_NAME_LIMIT + 1);
    // Of the source the whole address.
    begin.bytes(&[0]).zeros(1).bytes(&[u8::MAX; 16]).named("recent", 1)
}

/// `struct xt_statistic_info` (`linux/netfilter/xt_statistic.h`)
pub(crate) fn chance(Chance(chance): Chance) -> Extension {
    // Mode and flags before it. Behind it what another mode needs, where the tools repeat it, and a pointer of the kernel's.
    Layout::new().zeros(4).u32(chance).u32(0).u32(chance).zeros(8).named("statistic", 0)
}

/// `struct ipt_reject_info` (`linux/netfilter_ipv4/ipt_REJECT.h`), `struct ip6t_reject_info`
/// (`linux/netfilter_ipv6/ip6t_REJECT.h`)
pub(crate) fn reject(family: Family, how: Reject) -> Extension {
    let how = match (family, how) {
        (Family::V4, Reject::PortUnreachable) => 3,
        (Family::V4, Reject::TcpReset) => 7,
        (Family::V6, Reject::PortUnreachable) => 4,
        (Family::V6, Reject::TcpReset) => 6,
    };
    Layout::new().u32(how).named("REJECT", 0)
}

/// `struct xt_mark_tginfo2` (`linux/netfilter/xt_mark.h`)
pub(crate) fn set_mark(value: u32, mask: u32) -> Extension {
    Layout::new().u32(value).u32(mask).named("MARK", 2)
}

/// `NF_NAT_RANGE_…` (`linux/netfilter/nf_nat.h`)
mod range {
    pub const ADDRESSES: u32 = 1;
    pub const PORTS: u32 = 2;
    pub const FULLY_RANDOM: u32 = 16;
}

/// `struct nf_nat_range2` (`linux/netfilter/nf_nat.h`)
pub(crate) fn dnat(to: SocketAddr) -> Extension {
    let port = to.port().to_be_bytes();
    let range = Layout::new().u32(range::ADDRESSES | range::PORTS).address(to.ip()).address(to.ip());
    // Behind the ports the one that a shifted range starts from.
    range.bytes(&port).bytes(&port).zeros(2).zeros(2).named("DNAT", 2)
}

/// `struct nf_nat_ipv4_multi_range_compat`, `struct nf_nat_range` (`linux/netfilter/nf_nat.h`)
pub(crate) fn masquerade(family: Family, fully_random: bool) -> Extension {
    let flags = if fully_random { range::FULLY_RANDOM } else { 0 };
    match family {
        Family::V4 => Layout::new().u32(1).u32(flags).zeros(2 * 4 + 2 * 2),
        Family::V6 => Layout::new().u32(flags).zeros(2 * 16 + 2 * 2),
    }
    .named("MASQUERADE", 0)
}
