//! Virtual servers and destinations as values, and the changes to them. Printed, a change is what `ipvsadm` would be told.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The family of the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// What leads a packet to a virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerKey {
    /// Its destination.
    Address { protocol: u8, at: SocketAddr },
    /// Its mark, whatever its destination is. Marks go before addresses.
    Mark { family: Family, mark: u32 },
}

/// Who picks the destination of a new connection, by the name of the kernel's module after `ip_vs_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduler(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scheduler's name: those are 1 to 15 lower-case letters, digits or '_'")]
pub struct BadScheduler(String);

/// What a scheduler is told (`sched-flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Options(u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub scheduler: Scheduler,
    pub options: Options,
    /// For so many seconds after its last connection a client is given the same destination.
    pub persistence: Option<u32>,
}

/// How packets get to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Forwarding {
    /// Their destination is rewritten, and their answers' source.
    Masquerade,
    /// Any other of the kernel's numbers.
    Other(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    pub forwarding: Forwarding,
    /// 0: it is given no new connections.
    pub weight: u32,
}

/// A destination as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationState {
    pub destination: Destination,
    pub active: u32,
    pub inactive: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddServer(ServerKey, Server),
    SetServer(ServerKey, Server),
    /// With its destinations.
    DeleteServer(ServerKey),
    AddDestination(ServerKey, SocketAddr, Destination),
    SetDestination(ServerKey, SocketAddr, Destination),
    DeleteDestination(ServerKey, SocketAddr),
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl ServerKey {
    pub fn family(&self) -> Family {
        match self {
            Self::Address { at, .. } => Family::of(at.ip()),
            Self::Mark { family, .. } => *family,
        }
    }
}

impl Scheduler {
    /// What kube-proxy and ipvsadm know. Others pass by their names.
    pub const KNOWN: [&'static str; 13] =
        ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"];

    /// Each in turn, the kernel's and kube-proxy's default.
    pub fn round_robin() -> Self {
        Self("rr".to_owned())
    }

    /// By a hash of the client's address that moves few clients when destinations come and go (Linux 4.18).
    pub fn maglev() -> Self {
        Self("mh".to_owned())
    }

    pub fn new(name: &str) -> Result<Self, BadScheduler> {
        // IP_VS_SCHEDNAME_MAXLEN counts the zero byte.
        let fits = (1..16).contains(&name.len());
        let sound = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if fits && sound { Ok(Self(name.to_owned())) } else { Err(BadScheduler(name.to_owned())) }
    }

    pub(crate) fn as_read(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// What to tell it so that it never leaves a client with a destination that takes no more connections: the hashing
    /// ones would.
    pub fn options(&self) -> Options {
        if matches!(self.0.as_str(), "sh" | "mh") { Options::FALLBACK } else { Options::default() }
    }
}

impl Options {
    /// `sh-fallback`, `mh-fallback`: another destination instead of one of weight 0.
    pub const FALLBACK: Self = Self(0x8);
    /// All of what a scheduler may be told: IP_VS_SVC_F_SCHED1 to 3.
    pub(crate) const MASK: u32 = 0x38;

    pub(crate) fn from_flags(flags: u32) -> Self {
        Self(flags & Self::MASK)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }
}

impl Destination {
    /// Rewritten both ways, with a weight.
    pub fn masqueraded(weight: u32) -> Self {
        Self { forwarding: Forwarding::Masquerade, weight }
    }
}

impl DestinationState {
    pub fn connections(&self) -> u64 {
        u64::from(self.active) + u64::from(self.inactive)
    }
}

impl Op {
    pub fn server(&self) -> &ServerKey {
        match self {
            Self::AddServer(server, _)
            | Self::SetServer(server, _)
            | Self::DeleteServer(server)
            | Self::AddDestination(server, ..)
            | Self::SetDestination(server, ..)
            | Self::DeleteDestination(server, _) => server,
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, at } => match protocol {
                6 => write!(f, "-t {at}"),
                17 => write!(f, "-u {at}"),
                132 => write!(f, "--sctp-service {at}"),
                other => write!(f, "--protocol {other} {at}"),
            },
            Self::Mark { family: Family::V4, mark } => write!(f, "-f {mark}"),
            Self::Mark { family: Family::V6, mark } => write!(f, "-f {mark} -6"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-s {}", self.scheduler)?;
        for (bit, number) in [(0x8, 1), (0x10, 2), (0x20, 3)] {
            if self.options.0 & bit != 0 {
                write!(f, " -b flag-{number}")?;
            }
        }
        self.persistence.map_or(Ok(()), |seconds| write!(f, " -p {seconds}"))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forwarding {
            Forwarding::Masquerade => write!(f, "-m -w {}", self.weight),
            Forwarding::Other(method) => write!(f, "--method {method} -w {}", self.weight),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddServer(key, server) => write!(f, "-A {key} {server}"),
            Self::SetServer(key, server) => write!(f, "-E {key} {server}"),
            Self::DeleteServer(key) => write!(f, "-D {key}"),
            Self::AddDestination(key, at, destination) => write!(f, "-a {key} -r {at} {destination}"),
            Self::SetDestination(key, at, destination) => write!(f, "-e {key} -r {at} {destination}"),
            Self::DeleteDestination(key, at) => write!(f, "-d {key} -r {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_is_any_name_that_the_kernel_could_have() {
        assert!(Scheduler::KNOWN.iter().all(|name| Scheduler::new(name).is_ok()));
        assert_eq!(Scheduler::new("some_new_one").unwrap().name(), "some_new_one");
        for bad in ["", "RR", "r r", "rr\0", "../../x", "sixteen_letters_"] {
            assert_eq!(Scheduler::new(bad), Err(BadScheduler(bad.to_owned())));
        }
    }

    #[test]
    fn changes_read_like_ipvsadm() {
        let key = ServerKey::Address { protocol: 6, at: "10.96.0.1:443".parse().unwrap() };
        let scheduler = Scheduler::maglev();
        let server = Server { options: scheduler.options(), scheduler, persistence: Some(60) };
        assert_eq!(Op::AddServer(key, server).to_string(), "-A -t 10.96.0.1:443 -s mh -b flag-1 -p 60");
        let to = "10.244.1.5:6443".parse().unwrap();
        let drained = Op::SetDestination(key, to, Destination::masqueraded(0));
        assert_eq!(drained.to_string(), "-e -t 10.96.0.1:443 -r 10.244.1.5:6443 -m -w 0");
        let marked = ServerKey::Mark { family: Family::V6, mark: 7 };
        assert_eq!(
            Op::DeleteDestination(marked, "[fd00::5]:80".parse().unwrap()).to_string(),
            "-d -f 7 -6 -r [fd00::5]:80"
        );
    }
}
