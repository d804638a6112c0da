//! A rule as a value. Two rules are equal if the kernel would do the same with both, in whatever order their matches
//! were written. Not responsible for how a rule is written (`text`) or read (`parse`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

/// A chain's name; at most 28 bytes (the kernel's XT_EXTENSION_MAXNAMELEN).
pub type ChainName = Arc<str>;

/// What a rule looks at, and what it does with a packet of which all of it is true.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub(crate) source: Option<Test<IpNet>>,
    pub(crate) destination: Option<Test<IpNet>>,
    /// The link it came in by; a `+` at the end stands for anything.
    pub(crate) input: Option<Test<Arc<str>>>,
    /// As in the IP header.
    pub(crate) protocol: Option<u8>,
    /// In their own order, not in the order they came.
    pub(crate) matches: Vec<Match>,
    pub(crate) target: Option<Target>,
}

/// Something that must be so, or must not be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Test<T> {
    pub negated: bool,
    pub value: T,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Match {
    Comment(Box<str>),
    SourceIsLocal,
    DestinationIsLocal,
    DestinationPort(u16),
    State(Test<States>),
    Mark { negated: bool, value: u32, mask: u32 },
    Recent { name: Arc<str>, action: Recent },
    Chance(Chance),
}

/// States of connection tracking, as `--ctstate` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct States(pub(crate) u8);

/// What is done with a list of source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recent {
    /// The packet's source is put into the list, as seen now.
    Remember,
    /// It must be in there, seen within so many seconds; whoever was not is thrown out.
    Within { seconds: u32 },
}

/// A probability as the kernel keeps it: of 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chance(pub(crate) u32);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Jump(ChainName),
    Accept,
    Drop,
    Return,
    Reject(Reject),
    /// Bits of the packet's mark: those in `mask` are cleared, then those in `value` are flipped.
    SetMark {
        value: u32,
        mask: u32,
    },
    Dnat(SocketAddr),
    Masquerade {
        fully_random: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// An ICMP error of the family.
    PortUnreachable,
    TcpReset,
}

impl Test<IpNet> {
    /// Everybody's address is in 0.0.0.0/0 and ::/0, which is no test; the tools don't print it either.
    pub(crate) fn within(negated: bool, net: IpNet) -> Option<Test<IpNet>> {
        (negated || net.prefix_len() > 0).then_some(Test { negated, value: net.trunc() })
    }
}

impl States {
    pub const INVALID: States = States(1);
    pub const NEW: States = States(2);
    pub const RELATED: States = States(4);
    pub const ESTABLISHED: States = States(8);
    pub const UNTRACKED: States = States(16);
    pub const SNAT: States = States(32);
    pub const DNAT: States = States(64);

    /// In the order in which the tools print them.
    pub(crate) const NAMED: [(States, &'static str); 7] = [
        (States::INVALID, "INVALID"),
        (States::NEW, "NEW"),
        (States::RELATED, "RELATED"),
        (States::ESTABLISHED, "ESTABLISHED"),
        (States::UNTRACKED, "UNTRACKED"),
        (States::SNAT, "SNAT"),
        (States::DNAT, "DNAT"),
    ];

    pub fn and(self, other: States) -> States {
        States(self.0 | other.0)
    }

    pub(crate) fn contains(self, other: States) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Chance {
    pub(crate) const WHOLE: u64 = 1 << 31;

    /// One in so many.
    pub fn one_in(count: usize) -> Chance {
        let count = (count as u64).max(1);
        Chance(u32::try_from((Chance::WHOLE + count / 2) / count).unwrap_or(u32::MAX))
    }
}

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    pub fn comment(self, text: &str) -> Rule {
        self.with(Match::Comment(text.into()))
    }

    pub fn source(mut self, net: IpNet) -> Rule {
        self.source = Test::within(false, net);
        self
    }

    pub fn not_source(mut self, net: IpNet) -> Rule {
        self.source = Test::within(true, net);
        self
    }

    pub fn destination(mut self, net: IpNet) -> Rule {
        self.destination = Test::within(false, net);
        self
    }

    pub fn not_destination(mut self, net: IpNet) -> Rule {
        self.destination = Test::within(true, net);
        self
    }

    pub fn input(mut self, link: &str) -> Rule {
        self.input = Some(Test { negated: false, value: link.into() });
        self
    }

    /// Also of packets that came in by no link, since this machine sends them.
    pub fn not_input(mut self, link: &str) -> Rule {
        self.input = Some(Test { negated: true, value: link.into() });
        self
    }

    /// Whether it is about no packet at all, since every address is in 0.0.0.0/0. The tools on nf_tables refuse such a
    /// rule, so it is not to be written.
    pub fn is_impossible(&self) -> bool {
        [&self.source, &self.destination].into_iter().flatten().any(|test| test.negated && test.value.prefix_len() == 0)
    }

    pub fn destination_address(self, address: IpAddr) -> Rule {
        self.destination(IpNet::from(address))
    }

    pub fn protocol(mut self, protocol: u8) -> Rule {
        self.protocol = Some(protocol);
        self
    }

    pub fn port(mut self, protocol: u8, port: u16) -> Rule {
        self.protocol = Some(protocol);
        self.with(Match::DestinationPort(port))
    }

    /// The source is an address of this machine.
    pub fn source_is_local(self) -> Rule {
        self.with(Match::SourceIsLocal)
    }

    /// The destination is an address of this machine.
    pub fn destination_is_local(self) -> Rule {
        self.with(Match::DestinationIsLocal)
    }

    pub fn state(self, states: States) -> Rule {
        self.with(Match::State(Test { negated: false, value: states }))
    }

    pub fn not_state(self, states: States) -> Rule {
        self.with(Match::State(Test { negated: true, value: states }))
    }

    pub fn mark(self, value: u32, mask: u32) -> Rule {
        self.with(Match::Mark { negated: false, value, mask })
    }

    pub fn not_mark(self, value: u32, mask: u32) -> Rule {
        self.with(Match::Mark { negated: true, value, mask })
    }

    pub fn recent(self, name: &Arc<str>, action: Recent) -> Rule {
        self.with(Match::Recent { name: name.clone(), action })
    }

    pub fn chance(self, chance: Chance) -> Rule {
        self.with(Match::Chance(chance))
    }

    pub fn then(mut self, target: Target) -> Rule {
        self.target = Some(target);
        self
    }

    pub fn jump(self, chain: impl Into<ChainName>) -> Rule {
        self.then(Target::Jump(chain.into()))
    }

    pub(crate) fn with(mut self, one: Match) -> Rule {
        let at = self.matches.partition_point(|other| *other <= one);
        self.matches.insert(at, one);
        self
    }
}
